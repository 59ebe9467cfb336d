// n8n's own connections to its database take the login that holds now, from the file that the agent beside it keeps.
//
// Loaded before n8n (NODE_OPTIONS). n8n reads its login once, and logins end: so the driver (pg) reads the file at each
// connection that it opens, and replaces every connection before a login could have ended. A connection is n8n's own when
// it has the password that only n8n was given; those of workflows are left as they are. Whoever cannot read the file, or
// is refused with what it says, is told so by the driver as ever, and tries again with what the file says then.
'use strict';
const fs = require('node:fs');
const Module = require('node:module');
const { createHash, timingSafeEqual } = require('node:crypto');

const LOGIN = '/run/login/login';
// Seconds. The next login is there well before the last one ends (docs/services/openbao.md); this is the shorter time.
const CONNECTION_LIFE = Number(process.env.KIT_CONNECTION_LIFE || 120);

const digest = (text) => createHash('sha256').update(text).digest();
let own;
const isOwn = (password) => {
	own ??= digest(fs.readFileSync('/run/kit/own-connection', 'utf8').trim());
	return typeof password === 'string' && timingSafeEqual(digest(password), own);
};

function follow(pg) {
	const connect = pg.Client.prototype._connect;
	pg.Client.prototype._connect = function (callback) {
		if (!isOwn(this.password)) return connect.call(this, callback);
		try {
			const login = JSON.parse(fs.readFileSync(LOGIN, 'utf8'));
			this.user = this.connectionParameters.user = login.user;
			this.password = this.connectionParameters.password = login.password;
		} catch (problem) {
			return process.nextTick(() => callback(new Error(`no database login in ${LOGIN}: ${problem.code || 'not whole'}`)));
		}
		return connect.call(this, callback);
	};
	const pool = Object.getPrototypeOf(pg.Pool.prototype);
	const made = pool.newClient;
	pool.newClient = function (...given) {
		if (isOwn(this.options.password)) this.options.maxLifetimeSeconds = CONNECTION_LIFE;
		return made.apply(this, given);
	};
}

const followed = new WeakSet();
const load = Module._load;
Module._load = function (request, ...rest) {
	const loaded = load.call(this, request, ...rest);
	if (request === 'pg' && loaded && loaded.Client && !followed.has(loaded)) {
		followed.add(loaded);
		follow(loaded);
	}
	return loaded;
};
