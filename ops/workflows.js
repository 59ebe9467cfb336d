// What ./kit workflow asks n8n, as its owner, from inside its main container: node -e PROGRAM '{"verb": ...}'. Prints JSON.
//
// The editor is closed at the front door, and the owner's password leaves the container no other way than this.
'use strict';
const fs = require('node:fs');

const asked = JSON.parse(process.argv[1]);
// n8n takes five logins a minute, and answers the sixth 429. The session is kept in memory of this container, where
// n8n itself could make any session, and ends with it. It is the one that proofs use.
const kept = '/tmp/.kit-prove';
let cookie = fs.existsSync(kept) ? fs.readFileSync(kept, 'utf8') : '';

function request(method, path, body) {
	return fetch(`http://127.0.0.1:5678/rest/${path}`, {
		method,
		headers: { 'content-type': 'application/json', cookie },
		body: body && JSON.stringify(body),
		signal: AbortSignal.timeout(30_000),
	});
}

async function call(method, path, body) {
	const answer = await request(method, path, body);
	const text = await answer.text();
	if (!answer.ok) throw new Error(`${method} /rest/${path.split('?')[0]} answered ${answer.status}: ${text.slice(0, 200)}`);
	return text ? JSON.parse(text).data : undefined;
}

async function logIn() {
	if (cookie && (await request('GET', 'login')).ok) return;
	cookie = '';
	const password = fs.readFileSync('/run/kit/owner-password', 'utf8');
	const answer = await request('POST', 'login', { emailOrLdapLoginId: asked.owner, password });
	if (answer.status === 401) {
		throw new Error(`n8n has no owner ${asked.owner} with the stack's password: see docs/services/n8n.md`);
	}
	if (answer.status === 429) throw new Error('n8n takes no more logins for now: try again in a minute');
	if (!answer.ok) throw new Error(`the login answered ${answer.status}`);
	cookie = answer.headers.getSetCookie()[0].split(';')[0];
	fs.writeFileSync(kept, cookie, { mode: 0o600 });
}

const all = () => call('GET', 'workflows?take=1000');

async function named(name) {
	const found = (await all()).filter((item) => item.name === name || item.id === name);
	if (!found.length) throw new Error(`n8n has no workflow named ${JSON.stringify(name)}`);
	if (found.length > 1) throw new Error(`n8n has ${found.length} workflows of that name; their ids: ${found.map(({ id }) => id).join(', ')}`);
	return call('GET', `workflows/${found[0].id}`);
}

const on = ({ active, activeVersionId }) => Boolean(active || activeVersionId);

const verbs = {
	async list() {
		const found = await all();
		return found.map((item) => ({ id: item.id, name: item.name, active: on(item), archived: Boolean(item.isArchived) }));
	},
	// Without what belongs to this n8n: ids, credentials' ids, pinned data, what triggers remember.
	async export({ name }) {
		const found = await named(name);
		const nodes = found.nodes.map(({ id, webhookId, credentials, ...node }) => ({
			...node,
			...(credentials && {
				credentials: Object.fromEntries(Object.entries(credentials).map(([type, { name }]) => [type, { name }])),
			}),
		}));
		const { errorWorkflow, callerIds, ...settings } = found.settings ?? {};
		return { name: found.name, nodes, connections: found.connections, settings };
	},
	// How runs went: no data of theirs leaves n8n. Of what failed, the node and the message's first line.
	async history({ name, limit }) {
		const filter = name ? { workflowId: (await named(name)).id } : {};
		const query = `filter=${encodeURIComponent(JSON.stringify(filter))}&limit=${limit}`;
		const { results } = await call('GET', `executions?${query}`);
		const runs = [];
		for (const { id, workflowName, status, mode, startedAt, stoppedAt, createdAt } of results) {
			const begun = startedAt ?? createdAt;
			const seconds = startedAt && stoppedAt ? (new Date(stoppedAt) - new Date(startedAt)) / 1000 : null;
			const run = { id: String(id), workflow: workflowName ?? name ?? '', status, mode, started: begun, seconds, error: '' };
			if (status === 'error' || status === 'crashed') run.error = await reason(id);
			runs.push(run);
		}
		return runs;
	},
	async make({ workflow }) {
		return { id: (await call('POST', 'workflows', { ...workflow, active: false })).id };
	},
	// For tests: a person's edit of one Code node.
	async edit({ id, node, code }) {
		const found = await call('GET', `workflows/${id}`);
		for (const item of found.nodes) if (item.name === node) item.parameters.jsCode = code;
		const { nodes, connections } = found;
		return { versionId: (await call('PATCH', `workflows/${id}?forceSave=true`, { nodes, connections })).versionId };
	},
	async remove({ name }) {
		const found = await named(name);
		if (on(found)) await call('POST', `workflows/${found.id}/deactivate`, {});
		if (!found.isArchived) await call('POST', `workflows/${found.id}/archive`, {});
		await call('DELETE', `workflows/${found.id}`);
		return { id: found.id };
	},
};

// n8n writes executions as one flat list whose numbers in quotes point to places in it: read no more than the error.
async function reason(id) {
	try {
		const { data } = await call('GET', `executions/${id}`);
		const flat = typeof data === 'string' ? JSON.parse(data) : data;
		const at = (value) => (Array.isArray(flat) && typeof value === 'string' && /^\d+$/.test(value) ? flat[Number(value)] : value);
		const result = at((Array.isArray(flat) ? flat[0] : flat)?.resultData);
		const error = at(result?.error);
		const node = at(at(error?.node)?.name) ?? at(result?.lastNodeExecuted) ?? '';
		const kind = at(error?.name) ?? '';
		const status = at(error?.httpCode) ?? '';
		return [node && `at ${node}`, kind, status].filter(Boolean).join(': ').slice(0, 200);
	} catch {
		return 'n8n keeps no more about it';
	}
}

async function main() {
	await logIn();
	console.log(JSON.stringify(await verbs[asked.verb](asked)));
}

main().catch((problem) => {
	console.error(problem.message);
	process.exit(1);
});
