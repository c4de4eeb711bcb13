// The head of a session's log that its caller holds: each new one must continue it, or the log was rewritten.

import {concat, same, sha256, unb64url} from '/agentfield/proof/bytes.js';
import {parseHead} from '/agentfield/proof/documents.js';
import {canonicalText} from '/agentfield/proof/strict.js';

const parent = (left, right) => sha256(concat(Uint8Array.of(1), left, right));

/**
 * Whether a proof shows that one tree is a prefix of another (RFC 9162, section 2.1.4.2).
 * @param {{size: number, root: Uint8Array}} old
 * @param {{size: number, root: Uint8Array}} next
 * @param {Uint8Array[]} proof
 * @returns {Promise<boolean>}
 */
export async function continues(old, next, proof) {
  if (old.size > next.size) return false;
  if (old.size === next.size) return proof.length === 0 && same(old.root, next.root);
  const power = Number.isInteger(Math.log2(old.size));
  const [start, ...hashes] = power ? [old.root, ...proof] : proof;
  if (!start) return false;
  let first = old.size - 1;
  let last = next.size - 1;
  const up = () => { first = Math.floor(first / 2); last = Math.floor(last / 2); };
  while (first % 2 === 1) up();
  let before = start;
  let after = start;
  for (const hash of hashes) {
    if (last === 0) return false;
    if (first % 2 === 1 || first === last) {
      before = await parent(hash, before);
      after = await parent(hash, after);
      while (first > 0 && first % 2 === 0) up();
    } else {
      after = await parent(after, hash);
    }
    up();
  }
  return last === 0 && same(before, old.root) && same(after, next.root);
}

/** Holds the last head of one session. `take` reports each event to `told`. */
export class HeldHead {
  #told;
  #held = null;
  #forked = false;
  #queue = Promise.resolve();

  /** @param {(now: {state: 'held'|'fork'|'unchecked', size: number, final: boolean, text: string}) => void} told */
  constructor(told) {
    this.#told = told;
  }

  /**
   * Take a head, an event `log.head`; events are handled in their order.
   * @param {{head: object, since?: number, consistency?: string[]}} event
   */
  take(event) {
    this.#queue = this.#queue.then(() => this.#take(event));
    return this.#queue;
  }

  /**
   * Take the newest head of a call that has ended: its last one comes when the event stream is over.
   * @param {{head: (since: number) => Promise<object>}} call
   */
  async takeNewest(call) {
    await this.#queue;
    try {
      await this.take(await call.head(this.#held?.size ?? 0));
    } catch {
      // the token has expired, or the control plane is gone: the head that is held stays
    }
  }

  async #take({head: document, since, consistency = []}) {
    // after a fork nothing later is believed: the held head stays the proof
    if (this.#forked) return;
    const text = canonicalText(document);
    if (!globalThis.crypto?.subtle) {
      this.#told({state: 'unchecked', size: document.size, final: document.final, text});
      return;
    }
    try {
      const head = await parseHead(document);
      const old = this.#held;
      // without the head in between nothing is proven, and nothing contradicts
      const missed = old !== null && since !== undefined && since > old.size;
      const proof = consistency.map((hash) => unb64url(hash, 32, 'a hash of the proof'));
      const fits = old === null || missed
        || (head.log === old.log && (since ?? old.size) === old.size && await continues(old, head, proof));
      if (!fits) throw new Error('it does not continue the head that is held');
      this.#held = head;
      this.#told({state: 'held', size: head.size, final: head.final, text});
    } catch {
      this.#forked = true;
      this.#told({state: 'fork', size: document?.size ?? 0, final: false, text});
    }
  }
}
