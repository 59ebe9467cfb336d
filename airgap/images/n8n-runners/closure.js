// Copies one package and everything it requires out of a larger tree: node closure.js ROOT PACKAGE TARGET
//
// Dependencies are looked up the way Node does it, so that each copy is the version that n8n itself would use.
// Packages that stand at the top of ROOT land in TARGET/node_modules, nested ones stay nested.
'use strict';
const fs = require('node:fs');
const path = require('node:path');

const [root, name, target] = process.argv.slice(2);
const entry = path.join(root, name);
const wanted = new Set();

function resolve(dependency, from) {
	for (let folder = from; folder.startsWith(root); folder = path.dirname(folder)) {
		const found = path.join(folder, 'node_modules', dependency);
		if (fs.existsSync(path.join(found, 'package.json'))) return found;
		if (folder === root) break;
	}
	const top = path.join(root, dependency);
	return fs.existsSync(path.join(top, 'package.json')) ? top : undefined;
}

function visit(folder) {
	if (wanted.has(folder)) return;
	wanted.add(folder);
	const described = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
	const optional = { ...described.optionalDependencies, ...described.peerDependencies };
	for (const dependency of Object.keys({ ...optional, ...described.dependencies })) {
		const found = resolve(dependency, folder);
		if (found) visit(found);
		else if (!(dependency in optional)) throw new Error(`${folder} needs ${dependency}, which is not there`);
	}
}

visit(entry);
for (const folder of [...wanted].sort()) {
	const within = path.relative(entry, folder);
	const goal = within.startsWith('..')
		? path.join(target, 'node_modules', path.relative(root, folder))
		: path.join(target, within);
	// What is nested in a package comes by itself when it is wanted.
	const nested = path.join(folder, 'node_modules');
	fs.cpSync(folder, goal, { recursive: true, filter: (source) => source !== nested });
}
console.log(`${wanted.size} packages`);
