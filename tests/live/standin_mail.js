// Stands in for Gmail, its tokens, Telegram's bot API and a page on the internet, in tests. It is none of them.
//
// /_state says what it was asked, /_do changes how it answers, /_expect what it takes.
'use strict';
const http = require('node:http');

const state = {
	mails: [], labels: [{ id: 'INBOX', name: 'INBOX' }], tokens: 0, searches: [], modified: [], webhook: null,
	sent: [], refused: 0, limits: {}, gmailDown: 0, telegramDown: 0, fetched: 0,
};
const expected = JSON.parse(process.env.EXPECTED);
const LAST = 'access-';

const answer = (response, status, body, headers = {}) => {
	response.writeHead(status, { 'content-type': 'application/json', ...headers });
	response.end(typeof body === 'string' ? body : JSON.stringify(body));
};

function tokens(request, response, text) {
	const form = new URLSearchParams(text);
	const basic = Buffer.from((request.headers.authorization ?? '').replace('Basic ', ''), 'base64').toString();
	const secret = form.get('client_secret') ?? decodeURIComponent(basic.slice(basic.indexOf(':') + 1));
	if (secret !== expected.secret) return answer(response, 401, { error: 'invalid_client' });
	if (form.get('refresh_token') !== expected.refresh) return answer(response, 400, { error: 'invalid_grant' });
	state.tokens++;
	return answer(response, 200, { access_token: LAST + state.tokens, token_type: 'Bearer', expires_in: 3600 });
}

function gmail(request, response, url, text) {
	// Every token that was given is good, as at Google: two requests at once may each have asked for one.
	const number = Number((request.headers.authorization ?? '').replace(`Bearer ${LAST}`, ''));
	if (!(number >= 1 && number <= state.tokens)) {
		return answer(response, 401, { error: { code: 401, message: 'Invalid Credentials' } });
	}
	if (state.gmailDown > 0) {
		state.gmailDown--;
		return answer(response, 429, { error: { code: 429, message: 'Rate <limit> exceeded' } }, { 'retry-after': '2' });
	}
	const path = url.pathname.replace('/gmail/v1/users/me/', '');
	if (path === 'labels' && request.method === 'POST') {
		const label = { id: `Label_${state.labels.length}`, name: JSON.parse(text).name };
		state.labels.push(label);
		return answer(response, 200, label);
	}
	if (path === 'labels') return answer(response, 200, { labels: state.labels });
	if (path === 'messages') {
		const search = url.searchParams.get('q');
		state.searches.push(search);
		const after = Number(/after:(\d+)/.exec(search)?.[1] ?? 0);
		const found = state.mails.filter(({ date }) => date / 1000 >= after).reverse();
		return answer(response, 200, { messages: found.map(({ id }) => ({ id, threadId: id })), resultSizeEstimate: found.length });
	}
	const [, id, modify] = path.split('/');
	const mail = state.mails.find((item) => item.id === id);
	if (!mail) return answer(response, 404, { error: { code: 404, message: 'Not Found' } });
	if (modify) {
		const { addLabelIds } = JSON.parse(text);
		mail.labelIds.push(...addLabelIds);
		state.modified.push({ id, addLabelIds });
		return answer(response, 200, { id, labelIds: mail.labelIds });
	}
	const headers = [{ name: 'From', value: mail.from }, { name: 'Subject', value: mail.subject }];
	return answer(response, 200, { id, labelIds: mail.labelIds, snippet: mail.snippet, payload: { headers } });
}

function telegram(response, path, text) {
	const [, bot, method] = path.split('/');
	if (bot !== `bot${expected.bot}`) return answer(response, 401, { ok: false, error_code: 401, description: 'Unauthorized' });
	const body = text ? JSON.parse(text) : {};
	if (method === 'getMe') return answer(response, 200, { ok: true, result: { id: 1, is_bot: true, username: 'standin_bot' } });
	if (method === 'getWebhookInfo') return answer(response, 200, { ok: true, result: { url: state.webhook?.url ?? '' } });
	if (method === 'setWebhook') { state.webhook = body; return answer(response, 200, { ok: true, result: true }); }
	if (method === 'deleteWebhook') { state.webhook = null; return answer(response, 200, { ok: true, result: true }); }
	const chat = String(body.chat_id);
	if (state.limits[chat] > 0) {
		state.limits[chat]--;
		state.refused++;
		const description = 'Too Many Requests: retry after 1';
		return answer(response, 429, { ok: false, error_code: 429, description, parameters: { retry_after: 1 } });
	}
	state.sent.push({ chat, text: body.text, mode: body.parse_mode, at: Date.now() });
	return answer(response, 200, { ok: true, result: { message_id: state.sent.length, chat: { id: body.chat_id }, text: body.text } });
}

http.createServer((request, response) => {
	let text = '';
	request.on('data', (piece) => { text += piece; });
	request.on('end', () => {
		const url = new URL(request.url, 'http://standin');
		if (url.pathname === '/_state') return answer(response, 200, state);
		if (url.pathname === '/_do') return answer(response, 200, Object.assign(state, JSON.parse(text)));
		if (url.pathname === '/_expect') return answer(response, 200, Object.assign(expected, JSON.parse(text)) && {});
		if (url.pathname === '/_mail') {
			state.mails.push({ labelIds: ['INBOX'], date: Date.now(), ...JSON.parse(text) });
			return answer(response, 200, {});
		}
		if (url.pathname === '/token') return tokens(request, response, text);
		if (url.pathname.startsWith('/gmail/')) return gmail(request, response, url, text);
		if (url.pathname.startsWith('/bot')) return telegram(response, url.pathname, text);
		if (url.pathname === '/moved') return answer(response, 302, '', { location: 'http://postgres:5432/' });
		state.fetched++;
		const page = '<html><head><title>x</title></head><body><script>no()</script><h1>Bees &amp; flowers</h1><p>Bees fly.</p></body></html>';
		return answer(response, 200, page, { 'content-type': 'text/html' });
	});
}).listen(8080);
