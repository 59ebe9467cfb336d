// Makes the owner of a fresh Flowise, so that nobody else can: who signs up first would own it. Any number of runs end
// alike.
//
// An owner who is there is left alone, address and password included.
'use strict';
const fs = require('node:fs');

const url = process.env.KIT_URL;

async function call(path, body) {
	const answer = await fetch(`${url}/api/v1/${path}`, {
		method: 'POST',
		headers: { 'content-type': 'application/json' },
		body: JSON.stringify(body),
		signal: AbortSignal.timeout(60_000),
	});
	const text = await answer.text();
	if (!answer.ok) throw new Error(`/api/v1/${path} answered ${answer.status}: ${text.slice(0, 200)}`);
	return JSON.parse(text);
}

async function main() {
	const { redirectUrl } = await call('auth/resolve', {});
	if (redirectUrl === '/signin') {
		console.log('Flowise has its owner');
		return;
	}
	if (redirectUrl !== '/organization-setup') throw new Error(`Flowise sends new visitors to ${redirectUrl}`);
	const user = {
		name: 'Stack Owner',
		email: process.env.KIT_OWNER_EMAIL,
		credential: fs.readFileSync('/run/kit/owner-password', 'utf8'),
	};
	await call('account/register', { user });
	console.log(`${user.email} owns Flowise`);
}

main().catch((problem) => {
	console.log(problem.message);
	process.exit(1);
});
