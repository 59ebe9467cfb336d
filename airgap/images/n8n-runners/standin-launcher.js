#!/usr/local/bin/node
// Stands in for n8n's task-runner-launcher, a Go program that cannot be had from package registries.
//
// What it keeps: the config file /etc/n8n-task-runners.json, N8N_RUNNERS_AUTH_TOKEN (or _FILE) and
// N8N_RUNNERS_TASK_BROKER_URI, the grant token fetched from the broker for each runner, a runner that sees no
// other variables than the config allows, /healthz on port 5680, an unresponsive runner is replaced.
// What it does not: the runner is started at once and stays (the launcher starts it with the first task and ends it
// when idle), and there is only the JavaScript runner.
'use strict';
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');

const env = (name, otherwise = '') => {
	if (process.env[name] !== undefined) return process.env[name];
	const file = process.env[`${name}_FILE`];
	return file ? fs.readFileSync(file, 'utf8') : otherwise;
};
const say = (text) => console.log(`launcher: ${text}`);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

const broker = env('N8N_RUNNERS_TASK_BROKER_URI', 'http://127.0.0.1:5679').replace(/\/+$/, '');
const token = env('N8N_RUNNERS_AUTH_TOKEN');
const port = Number(env('N8N_RUNNERS_LAUNCHER_HEALTH_CHECK_PORT', '5680'));
const grace = Number(env('N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT', '30')) + 5;
const file = env('N8N_RUNNERS_CONFIG_PATH', '/etc/n8n-task-runners.json');
const type = process.argv[2] ?? 'javascript';
const config = JSON.parse(fs.readFileSync(file, 'utf8'))['task-runners'].find((item) => item['runner-type'] === type);

if (process.argv.length > 3 || !config) {
	console.error(`launcher: ${process.argv.slice(2).join(' ')}: this image has the javascript runner only`);
	process.exit(2);
}
if (!token) {
	console.error('launcher: N8N_RUNNERS_AUTH_TOKEN or N8N_RUNNERS_AUTH_TOKEN_FILE must be set');
	process.exit(2);
}

const health = config['health-check-server-port'] ?? '5681';
let runner;
let healthy = false;
let stopping = false;

async function grantToken() {
	const answer = await fetch(`${broker}/runners/auth`, {
		method: 'POST',
		headers: { 'content-type': 'application/json' },
		body: JSON.stringify({ token }),
		signal: AbortSignal.timeout(5000),
	});
	if (answer.status === 403) throw new Error('the broker refuses our auth token: both sides need the same one');
	if (!answer.ok) throw new Error(`the broker answered ${answer.status}`);
	return (await answer.json()).data.token;
}

function variables(grant) {
	const allowed = Object.fromEntries(
		(config['allowed-env'] ?? []).filter((name) => name in process.env).map((name) => [name, process.env[name]]),
	);
	return {
		...allowed,
		...config['env-overrides'],
		N8N_RUNNERS_TASK_BROKER_URI: broker,
		N8N_RUNNERS_GRANT_TOKEN: grant,
		N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED: 'true',
		N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT: health,
	};
}

// Whether the runner still has its connection to the broker. When that ends the runner of this version stays, deaf.
function connected(pid) {
	const port = `:${Number(new URL(broker).port || 80).toString(16).toUpperCase().padStart(4, '0')}`;
	const sockets = new Set();
	for (const fd of fs.readdirSync(`/proc/${pid}/fd`)) {
		try {
			sockets.add(fs.readlinkSync(`/proc/${pid}/fd/${fd}`));
		} catch {} // closed meanwhile
	}
	return ['tcp', 'tcp6'].some((table) =>
		fs.readFileSync(`/proc/${pid}/net/${table}`, 'utf8').split('\n').some((line) => {
			const [, , remote, state, , , , , , inode] = line.trim().split(/\s+/);
			return state === '01' && remote.endsWith(port) && sockets.has(`socket:[${inode}]`);
		}),
	);
}

// Until the runner ends.
async function run(grant) {
	runner = spawn(config.command, config.args, {
		cwd: config.workdir,
		env: variables(grant),
		stdio: ['ignore', 'inherit', 'inherit'],
	});
	const ended = new Promise((done) => {
		runner.on('exit', (code, signal) => done(signal ?? `code ${code}`));
		runner.on('error', (problem) => done(problem.message));
	});
	say('the runner is started');
	let missed = 0;
	let wasConnected = false;
	const watch = setInterval(async () => {
		try {
			const answer = await fetch(`http://127.0.0.1:${health}/`, { signal: AbortSignal.timeout(4000) });
			wasConnected ||= connected(runner.pid);
			if (wasConnected && !connected(runner.pid) && !stopping) {
				say('the broker has closed the connection: a new runner is needed');
				runner.kill('SIGKILL');
			}
			healthy = answer.ok && wasConnected;
		} catch {
			healthy = false;
		}
		missed = healthy ? 0 : missed + 1;
		if (missed >= 10 && !stopping) {
			say('the runner does not answer any more: ending it');
			runner?.kill('SIGKILL');
		}
	}, 2000);
	const how = await ended;
	clearInterval(watch);
	healthy = false;
	runner = undefined;
	say(`the runner ended (${how})`);
}

function stop(signal) {
	if (stopping) return;
	stopping = true;
	say(`${signal}: the runner finishes what it has`);
	runner?.kill('SIGTERM');
	setTimeout(() => process.exit(1), grace * 1000).unref();
}

async function main() {
	http.createServer((request, response) => {
		response.writeHead(request.url === '/healthz' && healthy ? 200 : 503).end();
	}).listen(port, '0.0.0.0');
	process.on('SIGTERM', () => stop('SIGTERM'));
	process.on('SIGINT', () => stop('SIGINT'));
	let said = '';
	while (!stopping) {
		try {
			const grant = await grantToken();
			if (stopping) break;
			said = '';
			await run(grant);
		} catch (problem) {
			const text = problem.cause?.code ?? problem.message;
			if (text !== said) say(`no grant token from ${broker}: ${text}`);
			said = text;
		}
		if (!stopping) await sleep(1000);
	}
	process.exit(0);
}

main();
