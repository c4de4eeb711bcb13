// The keys of an issuer over time, and which documents each of them could sign: rotations, revocations and anchors.

import {Wrong, b64url, bad} from '/agentfield/proof/bytes.js';

/**
 * The keys of an issuer in their order: `start` is the size of the control plane's log from which each signs, `end` that from which it
 * signs no more, `null` for the key in force.
 * @returns {{did: string, start: number, end: number|null}[]}
 */
export function issuerKeys(current, rotations, revoked) {
  const keys = [{did: rotations[0]?.old ?? current, start: 0, end: null}];
  for (const rotation of rotations) {
    const last = keys.at(-1);
    if (rotation.old !== last.did || keys.some(({did}) => did === rotation.new)) bad('the rotation does not follow the one before it');
    if (rotation.size <= last.start) bad('the rotation stands before the one that it follows');
    last.end = rotation.size;
    keys.push({did: rotation.new, start: rotation.size, end: null});
  }
  if (keys.at(-1).did !== current) bad('the rotations do not lead to the issuer of the file');
  for (const key of keys) if (key.did in revoked) key.end = Math.min(key.end ?? Infinity, revoked[key.did]);
  return keys;
}

/** Check that each head and each credential was signed by a key that could sign it. */
export function checkBindings(keys, heads, anchors, credentials) {
  const position = (did) => keys.findIndex((key) => key.did === did);
  const indexes = new Map(anchors.map(({leaf, index}) => [leaf, index]));
  let bound = Infinity;
  let vouched = false;
  let later = keys.length;
  for (let at = heads.length - 1; at >= 0; at -= 1) {
    const head = heads[at];
    const signer = position(head.issuer);
    const refuse = (why) => {
      throw new Wrong('bad_binding', `Its key could not sign it: ${why}.`, {item: `head ${at + 1}`, line: null});
    };
    if (signer > later) refuse('an earlier key signed a later head');
    if (signer < later) {
      vouched = at < heads.length - 1;
      later = signer;
    }
    const index = indexes.get(b64url(head.leaf));
    if (index !== undefined) {
      bound = Math.min(bound, index);
      if (index < keys[signer].start) refuse('it is anchored before its key began');
    }
    const {end} = keys[signer];
    if (end !== null && !vouched && bound >= end) {
      refuse(`its key signs nothing from size ${end} of the control plane's log on, and it is not anchored before`);
    }
  }
  let at = 0;
  for (const {issuer, leaf, subject} of credentials) {
    while (at < heads.length && heads[at].credentials < subject.number && b64url(heads[at].leaf) !== b64url(leaf)) at += 1;
    const item = `credential ${subject.number}`;
    if (at === heads.length) {
      if (keys[position(issuer)].end !== null) throw new Wrong('bad_binding', 'Its key signs no more, and no head covers it.', {item, line: null});
    } else if (position(heads[at].issuer) < position(issuer)) {
      throw new Wrong('bad_binding', 'A head of an earlier key covers it.', {item, line: null});
    }
  }
}
