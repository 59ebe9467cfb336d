// For test_credentials.py: the store's own functions, with keys that the caller gives, on rows that it sends. No server.
'use strict';
const fs = require('node:fs');
const real = fs.readFileSync;
const keys = JSON.parse(process.argv[3]);
fs.readFileSync = (name, ...more) => String(name).startsWith('/run/kit/') ? keys[String(name).slice(9)] ?? '' : real(name, ...more);
fs.existsSync = (name) => String(name).slice(9) in keys;
const program = real(process.argv[2], 'utf8').replace(/if \(require.main === module\)[^]*$/, '');
const asked = JSON.parse(real(0, 'utf8'));
const make = new Function('require', 'module', 'process', program + '; return { encrypted, decrypted, merged, settingsOf, pick, mask };');
const { encrypted, decrypted, merged, settingsOf, pick, mask } = make(require, { exports: {} }, process);
const rows = asked.map(([which, data]) => [which, encrypted(which, data)]);
const tries = [];
for (const [which, row] of rows) {
	const attempt = (w, r) => { try { return decrypted(w, r); } catch (problem) { return problem.message; } };
	const bent = { ...row, ciphertext: Buffer.from(row.ciphertext) };
	bent.ciphertext[0] ^= 1;
	tries.push({
		back: attempt(which, row), renamed: attempt({ ...which, name: which.name + 'x' }, row), bent: attempt(which, bent),
		older: attempt({ ...which, version: which.version + 1 }, row), foreign: attempt(which, { ...row, key_id: 'ff' }),
		hex: row.ciphertext.toString('hex'), nonce: row.nonce.toString('hex'), key: row.key_id,
	});
}
const gmail = { clientId: 'i', url: 'u', oauthTokenData: { refresh_token: 'r', access_token: 'a' } };
const split = merged(settingsOf('gmail-oauth', gmail), pick('gmail-oauth', { ...gmail, clientSecret: 's' }));
console.log(JSON.stringify({ tries, split, settings: settingsOf('gmail-oauth', gmail), masks: [mask('short'), mask('x'.repeat(20) + '1234')] }));
