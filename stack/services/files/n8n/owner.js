// Makes the owner of a fresh n8n, so that nobody else can: who comes first would own it. Any number of runs end alike.
//
// An owner who is there is left alone, address and password included.
'use strict';
const fs = require('node:fs');

const url = process.env.KIT_URL;

async function call(path, body) {
	const answer = await fetch(`${url}/rest/${path}`, {
		method: body ? 'POST' : 'GET',
		headers: { 'content-type': 'application/json' },
		body: body && JSON.stringify(body),
		signal: AbortSignal.timeout(30_000),
	});
	const text = await answer.text();
	if (!answer.ok) {
		const problem = new Error(`/rest/${path} answered ${answer.status}: ${text.slice(0, 200)}`);
		throw Object.assign(problem, { status: answer.status });
	}
	return JSON.parse(text).data;
}

// n8n says that it is ready a moment before it knows its own paths.
async function started() {
	for (let second = 0; ; second++) {
		try {
			return await call('settings');
		} catch (problem) {
			if (second >= 60 || (problem.status && problem.status !== 404 && problem.status < 500)) throw problem;
			await new Promise((done) => setTimeout(done, 1000));
		}
	}
}

async function main() {
	const settings = await started();
	if (!settings.userManagement.showSetupOnFirstLoad) {
		console.log('n8n has its owner');
		return;
	}
	await call('owner/setup', {
		email: process.env.KIT_OWNER_EMAIL,
		firstName: 'Stack',
		lastName: 'Owner',
		password: fs.readFileSync('/run/kit/owner-password', 'utf8'),
	});
	console.log(`${process.env.KIT_OWNER_EMAIL} owns n8n`);
}

main().catch((problem) => {
	console.log(problem.message);
	process.exit(1);
});
