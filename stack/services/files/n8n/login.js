// One login instead of two: whoever the front door has logged in is logged in to n8n, by n8n's own sessions.
//
// n8n loads it as an external hook (EXTERNAL_HOOK_FILES). Each request that carries the front door's voucher is made one
// with a session of the person whom the front door names. The browser never has such a session, so there is none that
// outlives the login. Requests without a voucher are n8n's own business, as ever: calls of webhooks, and what jobs and
// proofs ask as the owner. None of the files it uses is of n8n's enterprise edition (LICENSE_EE.md).
'use strict';
const fs = require('node:fs');
const { createHash, timingSafeEqual } = require('node:crypto');
const { createRequire } = require('node:module');

const SESSION = 'n8n-auth';
const LOGOUT = '/rest/logout';
// What n8n gives to everybody, and a page asks for a hundred of: nobody has to be looked up for it.
const STATIC = /^\/(assets|static|icons|schemas)\/|^\/favicon/;
// No hash that a password could have: these accounts are opened by the front door alone.
const NO_PASSWORD = 'no password set';

const digest = (text) => createHash('sha256').update(text).digest();
const voucher = digest(fs.readFileSync('/run/kit/voucher', 'utf8').trim());

// Headers arrive as one character per byte.
const header = (req, name) => Buffer.from(String(req.headers[name] ?? ''), 'latin1').toString('utf8').trim();

class Refused extends Error {}

// Takes what the front door says out of a request, so that no workflow sees it. undefined: it is not the front door's.
function said(req) {
	const shown = req.headers['x-kit-voucher'];
	if (shown === undefined) return undefined;
	const valid = timingSafeEqual(digest(String(shown)), voucher);
	const person = { email: header(req, 'x-forwarded-email').toLowerCase(), name: header(req, 'x-forwarded-preferred-username') };
	for (const name of Object.keys(req.headers)) {
		if (/^x-(kit-|forwarded-(user|email|groups|preferred-username)$)/.test(name)) delete req.headers[name];
	}
	if (!valid || !person.email) throw new Refused('This is not how the front door asks.');
	return person;
}

function withSession(req, token) {
	const others = (req.headers.cookie ?? '').split(';').filter((pair) => pair.split('=')[0].trim() !== SESSION);
	req.headers.cookie = [...others.map((pair) => pair.trim()).filter(Boolean), `${SESSION}=${token}`].join('; ');
}

function refuse(req, answer, problem) {
	const known = problem instanceof Refused;
	if (!known) console.error(`login: ${problem.stack ?? problem}`);
	const words = known ? problem.message : 'n8n could not tell who you are. Please try again.';
	const page = (req.headers.accept ?? '').includes('text/html');
	answer(
		known ? 403 : 500,
		page ? 'text/html; charset=utf-8' : 'application/json',
		page ? `<!doctype html><meta charset=utf-8><title>n8n</title><p>${words}` : JSON.stringify({ code: 403, message: words }),
	);
}

async function install(server, users) {
	const own = createRequire(require.main.filename);
	const { Container } = own('@n8n/di');
	const { AuthService } = own('../dist/auth/auth.service.js');
	const { License } = own('../dist/license.js');
	const auth = Container.get(AuthService);
	const license = Container.get(License);
	if (typeof auth.issueJWT !== 'function' || typeof users.createUserWithProject !== 'function') {
		throw new Error('this n8n makes sessions or users in another way');
	}
	const making = new Map();
	// n8n gives a session to the browser when somebody changes their profile. Here there is none outside of a request.
	const issue = auth.issueCookie.bind(auth);
	auth.issueCookie = (res, ...rest) => (res.req?.kitVouched ? undefined : issue(res, ...rest));
	let owned = false;

	const find = (email) => users.findOne({ where: { email }, relations: ['role'] });

	// The realm's administrator has the owner's address, and is the owner. Everybody else is a member: other roles are
	// what a licence is for.
	async function make({ email, name }) {
		const role = { slug: 'global:member' };
		try {
			await users.createUserWithProject({ email, firstName: name.slice(0, 32), lastName: '', role, password: NO_PASSWORD });
			console.log(`login: ${email} is new here`);
		} catch (problem) {
			if (!(await find(email))) throw problem;
		}
		return await find(email);
	}

	async function account(person) {
		const found = await find(person.email);
		if (found) return found;
		// A page asks for many things at once.
		if (!making.has(person.email)) {
			making.set(person.email, make(person).finally(() => making.delete(person.email)));
		}
		return await making.get(person.email);
	}

	async function session(person) {
		// Until the job has made the owner, nobody comes first: who sets n8n up owns it.
		if (!owned) {
			const owner = await users.findOne({ where: { role: { slug: 'global:owner' } } });
			owned = Boolean(owner?.email && owner.password);
			if (!owned) throw new Refused('n8n is being set up. Please try again in a minute.');
		}
		const user = await account(person);
		if (user.disabled) throw new Refused('Your account in n8n is switched off.');
		if (user.password === null && user.role.slug !== 'global:owner') {
			// Somebody invited this address. Coming through the front door is how the invitation is taken.
			await users.update(user.id, { password: NO_PASSWORD });
			user.password = NO_PASSWORD;
		}
		if (user.role.slug !== 'global:owner' && !license.isWithinUsersLimit()) {
			throw new Refused('n8n has as many users as its licence allows.');
		}
		return auth.issueJWT(user, true);
	}

	function before(event, listeners, answering) {
		server.server.removeAllListeners(event);
		server.server.on(event, (req, ...rest) => {
			const go = () => listeners.forEach((listener) => listener.call(server.server, req, ...rest));
			let person;
			try {
				person = said(req);
			} catch (problem) {
				return refuse(req, answering(...rest), problem);
			}
			if (!person || (event === 'request' && STATIC.test(req.url))) return go();
			if (event === 'request' && req.method === 'POST' && req.url === LOGOUT) {
				// The front door has ended the login already, and there is no session of n8n's to end.
				const done = JSON.stringify({ data: { loggedOut: true } });
				return answering(...rest)(200, 'application/json', done, { 'set-cookie': `${SESSION}=; Max-Age=0; Path=/` });
			}
			session(person).then(
				(token) => {
					req.kitVouched = true;
					withSession(req, token);
					go();
				},
				(problem) => refuse(req, answering(...rest), problem),
			);
		});
	}

	before('request', server.server.listeners('request'), (res) => (status, type, text, more = {}) => {
		res.writeHead(status, { 'content-type': type, 'cache-control': 'no-store', ...more });
		res.end(text);
	});
	before('upgrade', server.server.listeners('upgrade'), (socket) => (status) => {
		socket.end(`HTTP/1.1 ${status} No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
	});
}

module.exports = {
	user: {
		// The address is who somebody is: it comes from the login, and is nobody's to change here.
		'profile.beforeUpdate': [
			async (id, before, changes) => {
				if (changes.email && changes.email.toLowerCase() !== before.toLowerCase()) {
					throw new Refused('Your address comes from the login of this stack.');
				}
			},
		],
	},
	n8n: {
		ready: [
			async function (server) {
				try {
					await install(server, this.dbCollections.User);
					console.log('login: who the front door has logged in is logged in');
				} catch (problem) {
					// Webhooks go on. The editor asks for a second login, n8n's own, behind that of the front door.
					console.error(`login: n8n asks for a login of its own: ${problem.stack ?? problem}`);
				}
			},
		],
	},
};
