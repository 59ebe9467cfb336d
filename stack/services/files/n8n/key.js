// Whether the volume was made with our encryption key. Runs before n8n does, changes nothing, prints no key.
//
// n8n writes its key into the file .n8n/config of its volume. Started with another one it stops at once, over and over;
// and credentials encrypted with one key are lost with the other.
'use strict';
const fs = require('node:fs');
const { timingSafeEqual, createHash } = require('node:crypto');

const file = '.n8n/config';
const ours = fs.readFileSync('/run/kit/encryption-key', 'utf8');
let settings;
try {
	settings = fs.readFileSync(`/n8n-data/${file}`, 'utf8');
} catch (problem) {
	if (problem.code !== 'ENOENT') throw problem;
	console.log('the volume is new: n8n will keep our encryption key in it');
	process.exit(0);
}

let theirs;
try {
	theirs = JSON.parse(settings).encryptionKey;
} catch {
	theirs = undefined;
}
if (typeof theirs !== 'string') {
	console.log(`${process.env.KIT_VOLUME}: its file ${file} holds no key of n8n; restore it from a backup`);
	process.exit(1);
}

const hash = (text) => createHash('sha256').update(text).digest();
if (timingSafeEqual(hash(theirs), hash(ours))) {
	console.log('the volume has our encryption key');
	process.exit(0);
}

console.log(`The volume ${process.env.KIT_VOLUME} was made with another encryption key than this stack has.
n8n was not touched. With our key, every credential stored in it would be lost. Either
- give the stack the volume's key, which is in the file ${file} there:
    docker run --rm -v ${process.env.KIT_VOLUME}:/v:ro --entrypoint node ${process.env.KIT_IMAGE} \\
      -p 'JSON.parse(fs.readFileSync("/v/${file}")).encryptionKey' \\
      | pulumi config set --secret n8nEncryptionKey -s ${process.env.KIT_STACK}
- or, when nothing in it is wanted any more, remove what is encrypted with it: ./kit down ${process.env.KIT_STACK}, then
    docker volume rm ${process.env.KIT_VOLUME}`);
process.exit(1);
