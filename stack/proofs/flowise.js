// Speaks to Flowise as its owner, from inside its container: node -e PROGRAM '{"verb": ...}'. Prints JSON.
//
// The pages are closed at the front door, and the owner's password leaves the container no other way than this.
'use strict';
const fs = require('node:fs');

const asked = JSON.parse(process.argv[1]);
let cookie = '';

async function ask(method, path, body) {
	const answer = await fetch(`http://127.0.0.1:3000/api/v1/${path}`, {
		method,
		// As its own pages ask, which come with a session and through the front door.
		headers: {
			'content-type': 'application/json',
			'x-forwarded-proto': 'https',
			'x-request-from': 'internal',
			cookie,
		},
		body: body && JSON.stringify(body),
		signal: AbortSignal.timeout(60_000),
	});
	return { status: answer.status, headers: answer.headers, text: await answer.text() };
}

async function call(method, path, body) {
	const { status, text } = await ask(method, path, body);
	if (status >= 300) throw new Error(`${method} ${path} answered ${status}: ${text.slice(0, 200)}`);
	return text ? JSON.parse(text) : undefined;
}

async function login() {
	const password = fs.readFileSync('/run/kit/owner-password', 'utf8');
	const { status, headers, text } = await ask('POST', 'auth/login', { email: asked.owner, password });
	if (status === 401 || status === 404) {
		throw new Error(`Flowise has no owner ${asked.owner} with the stack's password: see docs/services/flowise.md`);
	}
	if (status >= 300) throw new Error(`the login answered ${status}: ${text.slice(0, 200)}`);
	cookie = headers.getSetCookie().map((line) => line.split(';')[0]).join('; ');
}

// A node as the page would draw it: with its definition's defaults, and what a flow sets beside them.
async function node(name, id, inputs, output) {
	const defined = await call('GET', `nodes/${name}`);
	const defaults = Object.fromEntries((defined.inputs ?? []).map((input) => [input.name, input.default ?? '']));
	const { inputs: params, credential, ...rest } = defined; // the definition's credential is a field, a flow's is an id
	const data = {
		...rest,
		id,
		inputParams: params,
		inputAnchors: [],
		outputAnchors: [],
		inputs: { ...defaults, ...inputs },
		outputs: output ? { output } : {},
		selected: false,
	};
	return { id, type: 'customNode', position: { x: 0, y: 0 }, data };
}

function edge(source, target, input) {
	const sourceHandle = `${source}-output-${source.split('_')[0]}`;
	const targetHandle = `${target}-input-${input}`;
	return { source, sourceHandle, target, targetHandle, type: 'buttonedge', id: `${sourceHandle}-${targetHandle}` };
}

// Question, prompt, model, answer: the smallest chain there is.
async function chain(model) {
	const nodes = [
		await node('chatOllama', 'chatOllama_0', {
			baseUrl: process.env.KIT_QUEUE,
			modelName: model,
			temperature: 0,
			streaming: false,
		}),
		await node('promptTemplate', 'promptTemplate_0', { template: '{question}', promptValues: '{"question":"{{question}}"}' }),
		await node(
			'llmChain',
			'llmChain_0',
			{ model: '{{chatOllama_0.data.instance}}', prompt: '{{promptTemplate_0.data.instance}}' },
			'llmChain',
		),
	];
	const edges = [edge('chatOllama_0', 'llmChain_0', 'model'), edge('promptTemplate_0', 'llmChain_0', 'prompt')];
	return JSON.stringify({ nodes, edges, viewport: { x: 0, y: 0, zoom: 1 } });
}

const STRANGERS = ['claim', 'open']; // the verbs of somebody who has no account
const verbs = {
	// A flow that answers with a model, for whoever has the key made for it.
	async make({ name, model }) {
		const keys = await call('POST', 'apikey', { keyName: name, permissions: ['chatflows:view'] });
		const key = (keys.data ?? keys).find(({ keyName }) => keyName === name);
		const flow = { name, type: 'CHATFLOW', deployed: false, isPublic: false, apikeyid: key.id };
		const made = await call('POST', 'chatflows', { ...flow, flowData: await chain(model) });
		return { id: made.id, key: key.apiKey };
	},
	// Which nodes there are.
	async nodes() {
		return (await call('GET', 'nodes')).map(({ name }) => name);
	},
	// Whether somebody else can sign up: what Flowise says to whoever tries.
	async claim({ email }) {
		const user = { name: 'Somebody Else', email, credential: 'aA1!aaaaaaaaaaaa' };
		const { status } = await ask('POST', 'account/register', { user });
		return { status };
	},
	// What Flowise answers, by path, to whoever asks with neither a login nor the header of its own pages.
	async open({ paths }) {
		const statuses = {};
		for (const path of paths) {
			const answer = await fetch(`http://127.0.0.1:3000${path}`, { redirect: 'manual', signal: AbortSignal.timeout(60_000) });
			await answer.body?.cancel();
			statuses[path] = answer.status;
		}
		return statuses;
	},
	// Every flow and key whose name starts so.
	async remove({ prefix }) {
		const flows = await call('GET', 'chatflows');
		const ours = (flows.data ?? flows).filter(({ name }) => name.startsWith(prefix));
		for (const { id } of ours) await call('DELETE', `chatflows/${id}`);
		const keys = await call('GET', 'apikey');
		for (const { id, keyName } of keys.data ?? keys) {
			if (keyName.startsWith(prefix)) await call('DELETE', `apikey/${id}`);
		}
		return { removed: ours.length };
	},
};

async function main() {
	if (!STRANGERS.includes(asked.verb)) await login();
	console.log(JSON.stringify(await verbs[asked.verb](asked)));
}

main().catch((problem) => {
	console.error(problem.message);
	process.exit(1);
});
