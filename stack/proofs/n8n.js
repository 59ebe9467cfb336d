// Speaks to n8n as its owner, from inside its main container: node -e PROGRAM '{"verb": ...}'. Prints JSON.
//
// The editor is closed at the front door, and the owner's password leaves the container no other way than this.
'use strict';
const fs = require('node:fs');

const asked = JSON.parse(process.argv[1]);
// n8n takes five logins a minute, and answers the sixth 429. The session is kept in memory of this container, where
// n8n itself could make any session, and ends with it.
const kept = '/tmp/.kit-prove';
let cookie = fs.existsSync(kept) ? fs.readFileSync(kept, 'utf8') : '';

function ask(method, path, body) {
	return fetch(`http://127.0.0.1:5678/rest/${path}`, {
		method,
		headers: { 'content-type': 'application/json', cookie },
		body: body && JSON.stringify(body),
		signal: AbortSignal.timeout(30_000),
	});
}

async function content(answer, what) {
	const text = await answer.text();
	if (!answer.ok) throw new Error(`${what} answered ${answer.status}: ${text.slice(0, 200)}`);
	return text ? JSON.parse(text).data : undefined;
}

async function call(method, path, body) {
	return content(await ask(method, path, body), `${method} /rest/${path.split('?')[0]}`);
}

async function login() {
	if (cookie && (await ask('GET', 'login')).ok) return;
	cookie = '';
	const password = fs.readFileSync('/run/kit/owner-password', 'utf8');
	const answer = await ask('POST', 'login', { emailOrLdapLoginId: asked.owner, password });
	if (answer.status === 401) {
		throw new Error(`n8n has no owner ${asked.owner} with the stack's password: see docs/services/n8n.md`);
	}
	await content(answer, 'the login');
	cookie = answer.headers.getSetCookie()[0].split(';')[0];
	fs.writeFileSync(kept, cookie, { mode: 0o600 });
}

const verbs = {
	// A workflow, published. Prints its id.
	async make({ workflow }) {
		const made = await call('POST', 'workflows', { ...workflow, active: false, settings: {} });
		await call('POST', `workflows/${made.id}/activate`, { versionId: made.versionId });
		return { id: made.id };
	},
	// What n8n wrote down about a workflow's runs.
	async runs({ id }) {
		const filter = encodeURIComponent(JSON.stringify({ workflowId: id }));
		const { results } = await call('GET', `executions?filter=${filter}&limit=20`);
		return results.map(({ id, status, mode }) => ({ id, status, mode }));
	},
	// What n8n answers whom the front door did not send, and who says so all the same: without a voucher, and with one
	// that is made up.
	async claim({ email }) {
		const status = async (headers) =>
			(await fetch('http://127.0.0.1:5678/rest/login', { headers: { 'x-forwarded-email': email, ...headers } })).status;
		return { unproven: await status({}), forged: await status({ 'x-kit-voucher': '0'.repeat(64) }) };
	},
	// Every workflow whose name starts so, with its runs.
	async remove({ prefix }) {
		const all = await call('GET', 'workflows?take=1000');
		const ours = all.filter(({ name }) => name.startsWith(prefix));
		for (const { id, active, activeVersionId, isArchived } of ours) {
			if (active || activeVersionId) await call('POST', `workflows/${id}/deactivate`, {});
			if (!isArchived) await call('POST', `workflows/${id}/archive`, {});
			await call('DELETE', `workflows/${id}`);
		}
		return { removed: ours.length };
	},
};

async function main() {
	await login();
	console.log(JSON.stringify(await verbs[asked.verb](asked)));
}

main().catch((problem) => {
	console.error(problem.message);
	process.exit(1);
});
