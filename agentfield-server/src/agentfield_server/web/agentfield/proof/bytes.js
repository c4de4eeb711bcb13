// Bytes and keys: UTF-8, base64url and base58 in their one form, SHA-256, and Ed25519 signatures of a `did:key` (WebCrypto).

const BASE58 = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
const DID_KEY = 'did:key:z';
const keys = new Map();

/** What is wrong with a document; `item` and `line` name it where they are not the current ones. */
export class Wrong extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{item?: string, line?: number|null}} [where]
   */
  constructor(code, message, where = {}) {
    super(message);
    this.name = 'Wrong';
    this.code = code;
    this.where = where;
  }
}

/** Reject a malformed document. */
export function bad(why) {
  throw new Wrong('bad_document', `The document is malformed: ${why}.`);
}

/** @param {string} text */
export const utf8 = (text) => new TextEncoder().encode(text);

/** @param {...Uint8Array} parts */
export function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** @param {Uint8Array} bytes @returns {Promise<Uint8Array>} */
export async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
}

/** The leaf of canonical bytes: SHA-256(0x00 ‖ bytes). @returns {Promise<Uint8Array>} */
export const leafOf = (bytes) => sha256(concat(Uint8Array.of(0), bytes));

/** @param {Uint8Array} bytes */
export function b64url(bytes) {
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
}

/** Decode base64url of a known number of bytes, in its one form. */
export function unb64url(text, size, name) {
  if (typeof text === 'string' && /^[A-Za-z0-9_-]*$/.test(text) && text.length === Math.ceil(size * 4 / 3)) {
    const bytes = Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (char) => char.charCodeAt(0));
    if (bytes.length === size && b64url(bytes) === text) return bytes;
  }
  return bad(`${name} is not ${size} bytes in base64url`);
}

/** Decode base58btc of a known number of bytes, in its one form. */
export function unbase58(text, size, name) {
  if (typeof text !== 'string' || text.length > 100) bad(`${name} is not base58btc`);
  let number = 0n;
  for (const char of text) {
    const digit = BASE58.indexOf(char);
    if (digit < 0) bad(`${name} is not base58btc`);
    number = number * 58n + BigInt(digit);
  }
  const bytes = new Uint8Array(size);
  for (let at = size - 1; at >= 0; at -= 1) {
    bytes[at] = Number(number & 255n);
    number >>= 8n;
  }
  const zeros = bytes.findIndex((byte) => byte !== 0);
  if (number !== 0n || /^1*/.exec(text)[0].length !== (zeros < 0 ? size : zeros)) bad(`${name} is not ${size} bytes in base58btc`);
  return bytes;
}

/** Whether a signature of a message was made with the key that a DID names. @returns {Promise<boolean>} */
export async function signedBy(did, message, signature) {
  let key = keys.get(did);
  if (key === undefined) {
    key = await keyOf(did);
    keys.set(did, key);
  }
  return key !== null && crypto.subtle.verify('Ed25519', key, signature, message);
}

async function keyOf(did) {
  if (typeof did !== 'string' || !did.startsWith(DID_KEY)) return null;
  try {
    const raw = unbase58(did.slice(DID_KEY.length), 34, 'the DID');
    if (raw[0] !== 0xed || raw[1] !== 0x01) return null;
    return await crypto.subtle.importKey('raw', raw.slice(2), 'Ed25519', false, ['verify']);
  } catch (error) {
    if (error instanceof Wrong || error.name === 'DataError') return null;
    throw error;
  }
}

/** Whether two hashes are equal; `null` equals `null` only. */
export function same(first, second) {
  if (first === null || second === null) return first === second;
  return first.length === second.length && first.every((byte, at) => byte === second[at]);
}
