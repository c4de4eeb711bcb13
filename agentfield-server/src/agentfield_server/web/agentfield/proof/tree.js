// Merkle trees of logs (RFC 9162, section 2.1): the root of each size, and the root that a place leads to.

import {bad, concat, sha256, unb64url} from '/agentfield/proof/bytes.js';
import {integer, members} from '/agentfield/proof/strict.js';

const parent = (left, right) => sha256(concat(Uint8Array.of(1), left, right));

/** A tree that grows by its leaves and has the root of every size it has had. */
export class LogTree {
  #levels = [[]];

  get size() {
    return this.#levels[0].length;
  }

  async append(leaf) {
    const levels = this.#levels;
    let node = leaf;
    levels[0].push(node);
    for (let height = 0; levels[height].length % 2 === 0; height += 1) {
      node = await parent(levels[height].at(-2), node);
      if (height + 1 === levels.length) levels.push([]);
      levels[height + 1].push(node);
    }
  }

  /** The root over the first leaves; there are at least as many, and at least one. */
  async root(size) {
    const parts = [];
    for (let start = 0; start < size;) {
      const height = 31 - Math.clz32(size - start);
      parts.push(this.#levels[height][start >> height]);
      start += 1 << height;
    }
    let node = parts.pop();
    while (parts.length > 0) node = await parent(parts.pop(), node);
    return node;
  }
}

/** Parse the place of a leaf in a tree. */
export function parsePlace(value, name) {
  members(value, name, ['index', 'path', 'size']);
  const index = integer(value.index, `index of ${name}`);
  const size = integer(value.size, `size of ${name}`, 1);
  if (index >= size || !Array.isArray(value.path)) bad(`${name} is no path`);
  return {index, size, path: value.path.map((hash) => unb64url(hash, 32, `a hash of ${name}`))};
}

/** The root that a leaf at a place leads to. */
export async function rootOf(place, leaf) {
  let {index} = place;
  let last = place.size - 1;
  let root = leaf;
  const path = [...place.path];
  while (last > 0) {
    if (index % 2 === 1 || index < last) {
      const sibling = path.shift();
      if (sibling === undefined) bad('a path is too short');
      root = index % 2 === 1 ? await parent(sibling, root) : await parent(root, sibling);
    }
    index = Math.floor(index / 2);
    last = Math.floor(last / 2);
  }
  if (path.length > 0) bad('a path is too long');
  return root;
}
