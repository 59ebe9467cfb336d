// Imports the stack's workflow templates into n8n, as its owner. Any number of runs end alike.
//
// What it made carries meta.kit; nothing else is touched. A template that is no longer selected is switched off and kept.
// One that somebody edited is copied, switched off, before it is brought up to date: nobody's work is lost.
'use strict';
const fs = require('node:fs');
const { createHash, createHmac } = require('node:crypto');

const FILES = '/run/kit';
const { Store, kindOf } = require(`${FILES}/credentials.js`);
const url = process.env.KIT_URL;
const email = process.env.KIT_OWNER_EMAIL;
const password = fs.readFileSync(`${FILES}/owner-password`, 'utf8');
let cookie = '';

async function call(method, path, body) {
	const answer = await fetch(`${url}/rest/${path}`, {
		method,
		headers: { 'content-type': 'application/json', cookie },
		body: body && JSON.stringify(body),
		signal: AbortSignal.timeout(60_000),
	});
	const text = await answer.text();
	if (!answer.ok) {
		const problem = new Error(`${method} /rest/${path.split('?')[0]} answered ${answer.status}: ${text.slice(0, 300)}`);
		throw Object.assign(problem, { status: answer.status });
	}
	if (path === 'login') cookie = (answer.headers.getSetCookie()[0] ?? '').split(';')[0];
	return text ? JSON.parse(text).data : undefined;
}

// n8n says that it is ready a moment before it knows its own paths; the job that makes the owner may still be at it; and
// n8n takes five logins a minute.
async function logIn() {
	for (let second = 0; second < 60; second++) {
		const settings = await call('GET', 'settings').catch((problem) => {
			if (problem.status && problem.status !== 404 && problem.status < 500) throw problem;
		});
		if (settings && !settings.userManagement.showSetupOnFirstLoad) break;
		await new Promise((done) => setTimeout(done, 1000));
	}
	for (let attempt = 1; ; attempt++) {
		try {
			return await call('POST', 'login', { emailOrLdapLoginId: email, password });
		} catch (problem) {
			if (attempt >= 8) {
				throw problem.status === 401
					? new Error(`n8n has no owner ${email} with the stack's password: see docs/services/n8n.md`)
					: problem;
			}
			await new Promise((done) => setTimeout(done, 15_000));
		}
	}
}

// {"$file": name} is what the file says.
function filled(value) {
	if (Array.isArray(value)) return value.map(filled);
	if (value === null || typeof value !== 'object') return value;
	if (typeof value.$file === 'string') return fs.readFileSync(`${FILES}/values/${value.$file}`, 'utf8');
	return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, filled(item)]));
}

// Text in which the order of keys makes no difference.
function canonical(value) {
	if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
	if (value === null || typeof value !== 'object') return JSON.stringify(value);
	const keys = Object.keys(value).filter((key) => value[key] !== undefined).sort();
	return `{${keys.map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join()}}`;
}

const digest = (value) => createHash('sha256').update(canonical(value)).digest('hex');
const content = ({ nodes, connections }) => digest({ nodes, connections });
// Keyed: whoever reads n8n's database cannot try guesses against it.
const sealed = (value) => createHmac('sha256', password).update(canonical(value)).digest('hex');

// A node's id as this stack has it. n8n makes the secret that Telegram proves itself with, and the address it calls, of
// ids: those of the templates are known to everybody.
function ownId(id) {
	const hex = createHmac('sha256', password).update(`node ${id}`).digest('hex');
	return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join('-');
}

// Credentials by name: made, or brought up to date where their content is another than last time. What somebody was given
// elsewhere (a bot's token) is kept in the store, where it may have been rotated since; the rest is the stack's own.
async function credentials(wanted, seals, store) {
	const there = await call('GET', 'credentials');
	const ids = {};
	for (const { name, type, data: sketch } of wanted) {
		const data = filled(sketch);
		if (kindOf(type, data)) {
			ids[name] = await store.fromConfig({ name, type, data }, sealed);
			seals[name] = `${ids[name]}:store`;
			continue;
		}
		const seal = sealed({ type, data });
		const found = there.find((item) => item.name === name && item.type === type);
		if (found && seals[name] === `${found.id}:${seal}`) {
			ids[name] = found.id;
			continue;
		}
		const made = found
			? await call('PATCH', `credentials/${found.id}`, { name, type, data })
			: await call('POST', 'credentials', { name, type, data });
		ids[name] = made.id;
		seals[name] = `${made.id}:${seal}`;
		console.log(`credential ${name}: ${found ? 'updated' : 'made'}`);
	}
	return ids;
}

async function main() {
	const store = new Store(call, 'up');
	try {
		await store.open();
		await imported(store);
	} finally {
		await store.close();
	}
}

async function imported(store) {
	const { workflows, credentials: wanted } = JSON.parse(fs.readFileSync(`${FILES}/workflows.json`, 'utf8'));
	const again = await store.reencrypt();
	if (again) console.log(`credentials: ${again} versions are encrypted with the new key`);
	await logIn();
	const listed = await call('GET', 'workflows?take=1000');
	const there = {};
	for (const { id } of listed) {
		const full = await call('GET', `workflows/${id}`);
		if (full.meta?.kit) there[id] = full;
	}
	const seals = Object.assign({}, ...Object.values(there).map(({ meta }) => meta.kit.credentials ?? {}));
	const ids = await credentials(wanted, seals, store);

	const troubles = [];
	for (const { name } of await store.owed()) {
		try {
			await store.inject(name);
			console.log(`credential ${name}: brought up to date`);
		} catch (problem) {
			troubles.push(`credential ${name}: ${problem.message}`);
		}
	}
	for (const template of workflows) {
		try {
			await workflow(template, ids, seals, there[template.id], listed.find(({ id }) => id === template.id));
		} catch (problem) {
			troubles.push(`${template.name}: ${problem.message}`);
		}
	}
	const selected = new Set(workflows.map(({ id }) => id));
	for (const { id, name, active, activeVersionId } of Object.values(there)) {
		if (!selected.has(id) && (active || activeVersionId)) {
			await call('POST', `workflows/${id}/deactivate`, {});
			console.log(`${name}: not selected any more, switched off and kept`);
		}
	}
	if (troubles.length) throw new Error(troubles.join('\n'));
	if (!workflows.length) console.log('no workflows are selected');
}

async function workflow(template, ids, seals, existing, taken) {
	const { id, name, settings } = template;
	if (taken && !existing) throw new Error(`a workflow of somebody else has the id ${id}`);
	const used = {};
	const nodes = filled(template.nodes).map((listed) => {
		const node = { ...listed, id: ownId(listed.id) };
		if (listed.webhookId) node.webhookId = ownId(listed.webhookId);
		if (!node.credentials) return node;
		const named = Object.entries(node.credentials).map(([type, { name }]) => {
			used[name] = seals[name];
			return [type, { id: ids[name], name }];
		});
		return { ...node, credentials: Object.fromEntries(named) };
	});
	const wanted = { nodes, connections: template.connections };
	const kit = { template: name, content: content(wanted), settings: digest(settings), credentials: used };
	let versionId;
	if (!existing) {
		({ versionId } = await call('POST', 'workflows', { id, name, ...wanted, settings, meta: { kit }, active: false }));
		console.log(`${name}: imported`);
	} else {
		({ versionId } = existing);
		const known = existing.meta.kit;
		if (canonical(known) !== canonical(kit)) {
			const now = content(existing);
			if (now !== known.content && now !== kit.content) {
				const copy = `${existing.name} (edited, kept on ${new Date().toISOString().slice(0, 16).replace('T', ' ')})`;
				const { nodes, connections, settings } = existing;
				await call('POST', 'workflows', { name: copy, nodes, connections, settings, active: false });
				console.log(`${name}: was edited; what it was is kept as "${copy}"`);
			}
			const body = { name, ...wanted, settings, meta: { ...existing.meta, kit } };
			({ versionId } = await call('PATCH', `workflows/${id}?forceSave=true`, body));
			console.log(`${name}: updated`);
		} else {
			console.log(`${name}: unchanged`);
		}
		if (existing.isArchived) await call('POST', `workflows/${id}/unarchive`, {});
		if (existing.activeVersionId === versionId) return;
		// An edited one that is as the stack wants it otherwise: whoever edited it decides when it is published.
		if (existing.activeVersionId && canonical(known) === canonical(kit)) return;
	}
	await call('POST', `workflows/${id}/activate`, { versionId });
	console.log(`${name}: active`);
}

main().catch((problem) => {
	console.log([problem.message, problem.fix].filter(Boolean).join(' '));
	process.exit(1);
});
