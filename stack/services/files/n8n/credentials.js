// The credential store of workflows: encrypted, versioned, with an audit log; and what of it n8n has.
//
// As a program (./kit credentials, in n8n's main container): one line of JSON comes on standard input, one goes out; no
// value is in an argument or a variable. As a module: the import of workflow templates keeps their credentials here.
//
// Values are encrypted here (AES-256-GCM), with a key that the database never sees. Name, kind and version are part of
// what is authenticated: a row that somebody moved or renamed cannot be read. A read is written down before its value
// goes anywhere. n8n encrypts its own copy with its own key, and is told through its own API.
'use strict';
const fs = require('node:fs');
const { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } = require('node:crypto');
const { createRequire } = require('node:module');
const path = require('node:path');

const FILES = '/run/kit';
const file = (name) => fs.readFileSync(`${FILES}/${name}`, 'utf8');

// What a person can do something about.
class Trouble extends Error {
	constructor(what, fix = '', code = 1) {
		super(what);
		Object.assign(this, { fix, code });
	}
}

// ------------------------------------------------------------------------------------------------------- kinds

const at = (data, field) => field.split('.').reduce((value, key) => value?.[key], data);
const token = 'oauthTokenData.refresh_token';

// type: as n8n calls it, "" where n8n is not given it. secret: the fields that are. check: asks who issued it.
const KINDS = {
	telegram: { type: () => 'telegramApi', secret: ['accessToken'], check: checkTelegram },
	'gmail-oauth': { type: () => 'oAuth2Api', secret: ['clientId', 'clientSecret', token], check: checkOauth },
	generic: { type: ({ name }) => (name ? 'httpHeaderAuth' : ''), secret: ['value'], check: null },
};

// The kind of a credential as a template has it; undefined: it is not for the store (the stack's own databases).
const kindOf = (type, data) =>
	Object.keys(KINDS).find((kind) => KINDS[kind].type(data) === type && KINDS[kind].secret.every((field) => at(data, field)));

const secrets = (kind, data) => Object.fromEntries(KINDS[kind].secret.map((field) => [field, at(data, field)]));

// The data without what is secret: addresses and the like.
function settingsOf(kind, data, prefix = '') {
	const kept = Object.entries(data).filter(([key]) => !KINDS[kind].secret.includes(prefix + key));
	return Object.fromEntries(kept.map(([key, value]) => [key, isObject(value) ? settingsOf(kind, value, `${prefix}${key}.`) : value]));
}

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

function merged(old, patch) {
	const all = { ...old };
	for (const [key, value] of Object.entries(patch)) all[key] = isObject(value) ? merged(old[key] ?? {}, value) : value;
	return all;
}

// Text in which the order of keys makes no difference.
function canonical(value) {
	if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
	if (!isObject(value)) return JSON.stringify(value);
	return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join()}}`;
}

// ------------------------------------------------------------------------------------------------ validity

// Never the address in a message: Telegram's has the token in it.
async function ask(url, options = {}) {
	try {
		const answer = await fetch(url, { ...options, redirect: 'error', signal: AbortSignal.timeout(15_000) });
		const text = await answer.text();
		let said = {};
		try { said = JSON.parse(text); } catch { /* a page of somebody in between */ }
		return { status: answer.status, said };
	} catch (problem) {
		const why = problem.name === 'TimeoutError' ? 'no answer within 15 s' : problem.cause?.code ?? 'no connection';
		return { status: 0, said: {}, why };
	}
}

const short = (text) => String(text ?? '').replace(/[^\x20-\x7e]/g, '?').slice(0, 120);
const unreachable = ({ status, why }) => ({ result: 'unreachable', detail: why ?? `it answered ${status}` });

async function checkTelegram({ baseUrl, accessToken }) {
	const answer = await ask(`${baseUrl}/bot${accessToken}/getMe`);
	const { status, said } = answer;
	if (status === 200 && said.ok) return { result: 'valid', detail: `@${short(said.result?.username ?? said.result?.id)}` };
	// Telegram answers 404 to what cannot be a token, 401 to one that is revoked.
	if (said.ok === false && (status === 401 || status === 404)) return { result: 'refused', detail: short(said.description) };
	return unreachable(answer);
}

async function checkOauth(data) {
	const form = { grant_type: 'refresh_token', client_id: data.clientId, client_secret: data.clientSecret };
	const body = new URLSearchParams({ ...form, refresh_token: at(data, token) });
	const answer = await ask(data.accessTokenUrl, { method: 'POST', body });
	const { status, said } = answer;
	if (status === 200 && said.access_token) return { result: 'valid', detail: 'it gives access tokens' };
	const known = { invalid_client: 'client id or secret', invalid_grant: 'refresh token', unauthorized_client: 'client' };
	if ((status === 400 || status === 401) && said.error) {
		return { result: 'refused', detail: `${known[said.error] ?? 'refused'} (${short(said.error)})` };
	}
	return unreachable(answer);
}

const check = async (kind, data) =>
	KINDS[kind].check ? KINDS[kind].check(data) : { result: 'unknown', detail: 'nobody can be asked' };

// ----------------------------------------------------------------------------------------------------- keys

function key(name) {
	const hex = fs.existsSync(`${FILES}/${name}`) ? file(name).trim() : '';
	if (!/^[0-9a-f]{64}$/.test(hex)) return undefined;
	const bytes = Buffer.from(hex, 'hex');
	return { bytes, id: createHmac('sha256', bytes).update('id of this key').digest('hex').slice(0, 16) };
}

const known = () => [key('credentials-key'), key('credentials-previous-key')].filter(Boolean);
const bound = ({ name, kind, version }) => Buffer.from(JSON.stringify(['ai-kit credential', name, kind, version]));

function encrypted(which, data) {
	const { bytes, id } = key('credentials-key');
	const nonce = randomBytes(12);
	const cipher = createCipheriv('aes-256-gcm', bytes, nonce).setAAD(bound(which));
	const ciphertext = Buffer.concat([cipher.update(JSON.stringify(data), 'utf8'), cipher.final(), cipher.getAuthTag()]);
	return { key_id: id, nonce, ciphertext };
}

function decrypted(which, { key_id, nonce, ciphertext }) {
	const found = known().find(({ id }) => id === key_id);
	if (!found) {
		const fix = `Store it anew: ./kit credentials set ${JSON.stringify(which.name)} --kind ${which.kind}  (docs/credentials.md, "When the key is gone")`;
		throw new Trouble(`version ${which.version} of ${which.name} was encrypted with a key that is not here.`, fix);
	}
	const end = ciphertext.length - 16;
	try {
		const open = createDecipheriv('aes-256-gcm', found.bytes, nonce, { authTagLength: 16 });
		open.setAAD(bound(which)).setAuthTag(ciphertext.subarray(end));
		return JSON.parse(Buffer.concat([open.update(ciphertext.subarray(0, end)), open.final()]).toString('utf8'));
	} catch {
		throw new Trouble(`version ${which.version} of ${which.name} is not as it was written.`, 'Somebody changed it in the database: set it anew.');
	}
}

// ------------------------------------------------------------------------------------------------- database

// n8n's own driver, wherever its image has it.
function driver() {
	const found = process.env.PATH.split(':').map((folder) => path.join(folder, 'n8n')).find((name) => fs.existsSync(name));
	return createRequire(fs.realpathSync(found))('pg');
}

async function connected(database, user, password) {
	const { DB_POSTGRESDB_HOST: host, DB_POSTGRESDB_PORT: port } = process.env;
	const options = { connectionTimeoutMillis: 10_000, statement_timeout: 30_000 };
	const client = new (driver().Client)({ host, port: Number(port), database, user, password, ...options });
	client.on('error', () => {});
	try {
		await client.connect();
	} catch (problem) {
		throw new Trouble(`the database ${database} does not let the store in: ${problem.code ?? problem.message}`, './kit up');
	}
	return client;
}

const AS_STORE = () => connected('credentials', 'credential_store', file('credentials-password'));
const AS_N8N = () => connected('n8n', file('database-user'), file('database-password'));

class Store {
	// api(method, path, body): n8n's own, as its owner. who: for the audit log.
	constructor(api, who) {
		Object.assign(this, { api, who });
	}

	async open() {
		this.db = await AS_STORE();
		return this;
	}

	async close() {
		await this.db?.end();
		await this.n8nDb?.end();
	}

	async rows(text, values = []) {
		return (await this.db.query(text, values)).rows;
	}

	async n8n(text, values = []) {
		this.n8nDb ??= await AS_N8N();
		return (await this.n8nDb.query(text, values)).rows;
	}

	async transaction(work) {
		await this.db.query('BEGIN');
		try {
			const result = await work();
			await this.db.query('COMMIT');
			return result;
		} catch (problem) {
			await this.db.query('ROLLBACK').catch(() => {});
			throw problem;
		}
	}

	note(action, name, version, detail = '') {
		const values = [this.who, action, name, version, detail];
		return this.rows('INSERT INTO store.audit (who, action, name, version, detail) VALUES ($1, $2, $3, $4, $5)', values);
	}

	async find(name) {
		return (await this.rows('SELECT * FROM store.credential WHERE name = $1', [name]))[0];
	}

	async named(name) {
		const found = await this.find(name);
		if (found) return found;
		const names = (await this.rows('SELECT name FROM store.credential ORDER BY name')).map((row) => row.name);
		throw new Trouble(
			`there is no credential ${JSON.stringify(name)}.`,
			names.length ? `There are: ${names.join(', ')}` : 'There is none yet: ./kit credentials set NAME --kind KIND',
		);
	}

	// The value. Written down first, and for good: whoever is interrupted after this has read it.
	async read(credential, version, detail) {
		const data = await this.value(credential, version);
		await this.note('read', credential.name, version, detail);
		return data;
	}

	// For those alone who write the read down themselves.
	async value({ name, kind, current }, version) {
		const [row] = await this.rows('SELECT * FROM store.version WHERE name = $1 AND version = $2', [name, version]);
		if (!row) throw new Trouble(`${name} has no version ${version}.`, `It has 1 to ${current}.`);
		return decrypted({ name, kind, version }, row);
	}

	// Whether the current version can be read at all: not where its key went with another state.
	async opens({ name, current }) {
		const [row] = await this.rows('SELECT key_id FROM store.version WHERE name = $1 AND version = $2', [name, current]);
		return known().some(({ id }) => id === row?.key_id);
	}

	// A new version, which counts from now on, in one transaction; the one before is retired. expected: the version that
	// the value was made from, 0 for none.
	async write({ name, kind, data, expected, seal, settings, checked, why = '' }) {
		const version = expected + 1;
		await this.transaction(async () => {
			const locked = expected
				? await this.rows('SELECT current FROM store.credential WHERE name = $1 FOR UPDATE', [name])
				: await this.rows('INSERT INTO store.credential (name, kind, current) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING RETURNING 0 AS current', [name, kind]);
			if (locked[0]?.current !== expected) throw new Trouble(`somebody else changed ${name} just now.`, 'Look at it, and try again: ./kit credentials audit');
			const { key_id, nonce, ciphertext } = encrypted({ name, kind, version }, data);
			const made = [name, version, key_id, nonce, ciphertext, this.who];
			await this.rows('INSERT INTO store.version (name, version, key_id, nonce, ciphertext, made_by) VALUES ($1, $2, $3, $4, $5, $6)', made);
			await this.rows('UPDATE store.version SET retired_at = clock_timestamp() WHERE name = $1 AND version < $2 AND retired_at IS NULL', [name, version]);
			await this.rows(
				'UPDATE store.credential SET current = $2, seal = coalesce($3, seal), settings = coalesce($4, settings), checked = $5,'
					+ ' checked_at = CASE WHEN $5::text IS NULL THEN NULL ELSE clock_timestamp() END WHERE name = $1',
				[name, version, seal, settings, checked],
			);
			await this.note(expected ? 'rotated' : 'made', name, version, why);
		});
		return version;
	}

	async checkedAs(credential, { result, detail }) {
		await this.rows('UPDATE store.credential SET checked = $2, checked_at = clock_timestamp() WHERE name = $1', [credential.name, result]);
		return { name: credential.name, kind: credential.kind, version: credential.current, result, detail };
	}

	// With the store's key rotated: every value under the new one, in one transaction. How many that were. What no key here
	// opens is left as it is: whoever reads it is told.
	async reencrypt() {
		const [{ id }, previous] = known();
		if (!previous) return 0;
		const old = 'SELECT v.*, c.kind FROM store.version v JOIN store.credential c USING (name) WHERE v.key_id = $1 AND $1 <> $2';
		return this.transaction(async () => {
			const rows = await this.rows(`${old} ORDER BY v.name, v.version FOR UPDATE OF v`, [previous.id, id]);
			for (const row of rows) {
				const { key_id, nonce, ciphertext } = encrypted(row, decrypted(row, row));
				const values = [row.name, row.version, key_id, nonce, ciphertext];
				await this.rows('UPDATE store.version SET key_id = $3, nonce = $4, ciphertext = $5 WHERE name = $1 AND version = $2', values);
				await this.note('re-encrypted', row.name, row.version);
			}
			return rows.length;
		});
	}

	// ---------------------------------------------------------------------------------------------- n8n's copy

	// n8n's credential gets the current version, in place: workflows name it by its id. Any number of runs end alike.
	async inject(name) {
		const credential = await this.named(name);
		const { kind, current } = credential;
		const there = await this.api('GET', 'credentials');
		const behind = credential.n8n_version !== current;
		if (!behind && there.some(({ id }) => id === credential.n8n_id)) return credential;
		const data = await this.value(credential, current);
		const type = KINDS[kind].type(data);
		await this.note(type ? 'injected' : 'read', name, current, type ? 'into n8n' : 'not for n8n');
		if (!type) {
			await this.rows('UPDATE store.credential SET n8n_version = $2 WHERE name = $1', [name, current]);
			return this.named(name);
		}
		const passing = `${name.slice(0, 100)} (being replaced)`;
		for (const left of there.filter((item) => item.name === passing)) await this.api('DELETE', `credentials/${left.id}`);
		const found = there.find((item) => item.id === credential.n8n_id && item.type === type)
			?? there.find((item) => item.name === name && item.type === type);
		let id = found?.id;
		if (!found) {
			({ id } = await this.api('POST', 'credentials', { name, type, data }));
		} else if (data.oauthTokenData) {
			// n8n's API keeps the tokens that a credential has, whatever it is told. So n8n encrypts a new one, and that goes
			// into the row which workflows name.
			const made = await this.api('POST', 'credentials', { name: passing, type, data });
			const move = 'UPDATE credentials_entity SET data = (SELECT data FROM credentials_entity WHERE id = $1), "updatedAt" = now() WHERE id = $2';
			await this.n8n(move, [made.id, id]);
			await this.api('DELETE', `credentials/${made.id}`);
		} else {
			await this.api('PATCH', `credentials/${id}`, { name: found.name, type, data });
		}
		if (kind === 'telegram') await this.reconnect(id, data);
		await this.rows('UPDATE store.credential SET n8n_id = $2, n8n_version = $3 WHERE name = $1', [name, id, current]);
		return this.named(name);
	}

	// Telegram may have forgotten where it brings messages to when the token was revoked: n8n tells it as it switches a
	// workflow on. Where the address is still there, nothing is touched.
	async reconnect(id, { baseUrl, accessToken }) {
		const { status, said } = await ask(`${baseUrl}/bot${accessToken}/getWebhookInfo`);
		if (status !== 200 || said.result?.url) return;
		for (const flow of await this.flows()) {
			const listens = flow.nodes.some((node) => node.type.endsWith('.telegramTrigger') && node.credentials?.telegramApi?.id === id);
			if (!listens || !flow.versionId) continue;
			await this.api('POST', `workflows/${flow.id}/deactivate`, {});
			await this.api('POST', `workflows/${flow.id}/activate`, { versionId: flow.versionId });
		}
	}

	async flows() {
		return this.n8n('SELECT id, name, active, "activeVersionId" AS "versionId", nodes FROM workflow_entity WHERE NOT "isArchived"');
	}

	async owed() {
		return this.rows('SELECT name FROM store.credential WHERE n8n_version IS DISTINCT FROM current ORDER BY name');
	}

	// A template's credential. The configuration's value counts when it changed since it was last looked at; else the
	// store's does. sealed: makes a keyed digest. Returns n8n's id of it.
	async fromConfig({ name, type, data }, sealed) {
		const kind = kindOf(type, data);
		const seal = sealed(secrets(kind, data));
		const settings = createHash('sha256').update(canonical(settingsOf(kind, data))).digest('hex');
		const row = await this.find(name);
		if (row && row.kind !== kind) {
			throw new Trouble(`credential ${name} is of kind ${row.kind} in the store, and a template's is ${kind}.`, 'Make one of another name for your own workflows.');
		}
		if (!row) {
			await this.write({ name, kind, data, expected: 0, seal, settings, why: 'from the configuration' });
		} else if (row.seal !== seal || row.settings !== settings) {
			const old = (await this.opens(row)) && (await this.read(row, row.current, 'the configuration changed'));
			const wanted = old && row.seal === seal ? merged(settingsOf(kind, data), pick(kind, old)) : data;
			if (old && canonical(wanted) === canonical(old)) {
				await this.rows('UPDATE store.credential SET seal = $2, settings = $3 WHERE name = $1', [name, seal, settings]);
			} else {
				await this.write({ name, kind, data: wanted, expected: row.current, seal, settings, why: 'from the configuration' });
			}
		}
		const before = row?.n8n_version;
		const { n8n_id, n8n_version } = await this.inject(name);
		if (before !== n8n_version) console.log(`credential ${name}: version ${n8n_version}`);
		return n8n_id;
	}
}

// What is secret of the data, in its place.
function pick(kind, data) {
	let picked = {};
	for (const field of KINDS[kind].secret) {
		picked = merged(picked, field.split('.').reduceRight((value, part) => ({ [part]: value }), at(data, field)));
	}
	return picked;
}

// -------------------------------------------------------------------------------------------------- ./kit credentials

function mask(value) {
	const text = String(value ?? '');
	return `${'*'.repeat(8)}${text.length >= 16 ? text.slice(-4) : ''} (${text.length} characters)`;
}

const verbs = {
	async list(store) {
		const found = await store.rows(
			'SELECT c.name, c.kind, c.current AS version, v.made_at AS "madeAt", v.made_by AS "madeBy", c.checked, c.checked_at AS "checkedAt",'
				+ ' v.key_id AS "keyId", c.n8n_id AS "n8nId", c.n8n_version AS "n8nVersion" FROM store.credential c JOIN store.version v ON v.name = c.name'
				+ ' AND v.version = c.current ORDER BY c.name',
		);
		const flows = await store.flows();
		const ids = known().map(({ id }) => id);
		return found.map(({ keyId, ...row }) => {
			const uses = ({ credentials }) => Object.values(credentials ?? {}).some(({ id }) => row.n8nId && id === row.n8nId);
			return { ...row, readable: ids.includes(keyId), workflows: flows.filter(({ nodes }) => nodes.some(uses)).map(({ name }) => name).sort() };
		});
	},
	async get(store, { name, version, show }) {
		const credential = await store.named(name);
		const wanted = version ?? credential.current;
		const data = await store.read(credential, wanted, show ? 'shown' : 'masked');
		const fields = secrets(credential.kind, data);
		const value = show ? fields : Object.fromEntries(Object.entries(fields).map(([field, text]) => [field, mask(text)]));
		return { name, kind: credential.kind, version: wanted, current: credential.current, value, settings: settingsOf(credential.kind, data) };
	},
	async set(store, { name, kind, data, unchecked }) {
		const there = await store.find(name);
		if (there && (there.kind !== kind || (await store.opens(there)))) {
			throw new Trouble(`there is a credential ${JSON.stringify(name)} already, of kind ${there.kind}.`, 'A new value for it: ./kit credentials rotate NAME');
		}
		return stored(store, { name, kind, data, expected: there?.current ?? 0 }, unchecked);
	},
	async rotate(store, { name, patch, unchecked }) {
		const { kind, current } = await store.named(name);
		const old = await store.read({ name, kind, current }, current, 'to be rotated');
		const data = merged(old, patch);
		if (canonical(data) === canonical(old)) {
			// As somebody who was interrupted says it again: what is owed to n8n is done.
			return { name, version: current, unchanged: true, ...(await delivered(store, name)) };
		}
		return stored(store, { name, kind, data, expected: current }, unchecked);
	},
	async kind(store, { name }) {
		return { kind: (await store.named(name)).kind };
	},
	async audit(store, { name, limit }) {
		const columns = 'id::integer, at, who, login, action, name, version, detail';
		return store.rows(`SELECT ${columns} FROM store.audit WHERE $1 = '' OR name = $1 ORDER BY id DESC LIMIT $2`, [name ?? '', limit]);
	},
	async check(store, { name }) {
		const chosen = name ? [await store.named(name)] : await store.rows('SELECT * FROM store.credential ORDER BY name');
		const results = [];
		for (const credential of chosen) {
			const data = await store.read(credential, credential.current, 'checked');
			results.push(await store.checkedAs(credential, await check(credential.kind, data)));
		}
		return results;
	},
	async sync(store) {
		const again = await store.reencrypt();
		const results = [];
		for (const { name } of await store.owed()) results.push({ name, ...(await delivered(store, name)) });
		return { reencrypted: again, credentials: results };
	},
	// What ./kit prove wants to know, without a value and without a trace: the log is closed to who writes it, and what is
	// encrypted opens where it belongs and nowhere else.
	async prove(store) {
		for (const change of ["UPDATE store.audit SET who = ''", 'DELETE FROM store.audit', 'TRUNCATE store.audit']) {
			await store.db.query('BEGIN');
			const refused = await store.db.query(change).then(() => '', ({ code }) => code);
			await store.db.query('ROLLBACK');
			if (refused !== '42501') throw new Trouble(`the audit log takes ${change.split(' ')[0]} (${refused || 'done'}).`, './kit up');
		}
		const which = { name: 'proof', kind: 'generic', version: 1 };
		const row = encrypted(which, { value: 'proof' });
		if (decrypted(which, row).value !== 'proof') throw new Trouble('what was encrypted is another after that.');
		let moved = true;
		try { decrypted({ ...which, name: 'other' }, row); } catch { moved = false; }
		if (moved) throw new Trouble('a value opens under another name.');
		const rows = await store.rows('SELECT v.key_id FROM store.credential c JOIN store.version v ON v.name = c.name AND v.version = c.current');
		const ids = known().map(({ id }) => id);
		return { credentials: rows.length, closed: rows.filter((item) => !ids.includes(item.key_id)).length, owed: (await store.owed()).length };
	},
};

// Asked first whether it is good: what is refused changes nothing.
async function stored(store, { name, kind, data, expected }, unchecked) {
	const { result, detail } = unchecked ? { result: 'unknown', detail: 'not asked' } : await check(kind, data);
	if (result === 'refused' || result === 'unreachable') {
		const fix = result === 'refused' ? 'Nothing was changed. Get the value once more from where it is issued.' : 'Nothing was changed. Try again, or store it unasked: --unchecked';
		const what = result === 'refused' ? `it is refused where it was issued: ${detail}.` : `whether it is good could not be asked: ${detail}.`;
		await store.note('turned down', name, null, result);
		throw new Trouble(what, fix, result === 'refused' ? 1 : 3);
	}
	const checked = unchecked ? null : result;
	const version = await store.write({ name, kind, data, expected, checked });
	return { name, version, result, detail, ...(await delivered(store, name)) };
}

// Stored is stored: that n8n has no part in it yet is said, and made up for by the next sync.
async function delivered(store, name) {
	try {
		const { n8n_id, n8n_version, current } = await store.inject(name);
		return { id: n8n_id, behind: n8n_version !== current };
	} catch (problem) {
		return { id: null, behind: true, problem: problem.message };
	}
}

// n8n takes five logins a minute. The session is the one that proofs and ./kit workflow use: in memory of this
// container, where n8n itself could make any.
function asOwner(owner) {
	const kept = '/tmp/.kit-prove';
	let cookie = fs.existsSync(kept) ? fs.readFileSync(kept, 'utf8') : '';
	const request = (method, name, body) =>
		fetch(`http://127.0.0.1:5678/rest/${name}`, {
			method,
			headers: { 'content-type': 'application/json', cookie },
			body: body && JSON.stringify(body),
			signal: AbortSignal.timeout(30_000),
		});
	let logged = false;
	async function logIn() {
		if (cookie && (await request('GET', 'login')).ok) return;
		cookie = '';
		const answer = await request('POST', 'login', { emailOrLdapLoginId: owner, password: file('owner-password') });
		if (answer.status === 401) throw new Error(`n8n has no owner ${owner} with the stack's password`);
		if (answer.status === 429) throw new Error('n8n takes no more logins for now');
		if (!answer.ok) throw new Error(`n8n's login answered ${answer.status}`);
		cookie = answer.headers.getSetCookie()[0].split(';')[0];
		fs.writeFileSync(kept, cookie, { mode: 0o600 });
	}
	return async (method, name, body) => {
		if (!logged) await logIn();
		logged = true;
		const answer = await request(method, name, body);
		const text = await answer.text();
		// Not what it says: a refusal may repeat what it was sent.
		if (!answer.ok) throw new Error(`n8n answered ${answer.status} to ${method} ${name.split('/')[0]}`);
		return text ? JSON.parse(text).data : undefined;
	};
}

// One line: who asks need not close the stream for it to end.
function line() {
	return new Promise((done, fail) => {
		const pieces = [];
		process.stdin.on('data', (piece) => {
			pieces.push(piece);
			if (piece.includes(10)) done(Buffer.concat(pieces).toString('utf8'));
		});
		process.stdin.on('end', () => fail(new Error('nothing was asked')));
		process.stdin.on('error', fail);
	});
}

async function main() {
	const asked = process.argv[2] === 'prove' ? { verb: 'prove', who: 'prove' } : JSON.parse(await line());
	const store = new Store(asOwner(asked.owner), asked.who);
	try {
		await store.open();
		return { answer: await verbs[asked.verb](store, asked) };
	} catch (problem) {
		// What nobody expected may hold anything: its kind alone is said.
		if (problem instanceof Trouble) return { trouble: problem.message, fix: problem.fix, code: problem.code };
		return { trouble: `the store failed: ${problem.code ?? problem.name}.`, fix: './kit status', code: 1 };
	} finally {
		await store.close().catch(() => {});
	}
}

module.exports = { Store, Trouble, kindOf };

if (require.main === module) {
	main().then((answer) => process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0)));
}
