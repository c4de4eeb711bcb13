// Canonical JSON (RFC 8785), and strict reading: one encoding for each document, exact members, whole-second times.

import {bad, utf8} from '/agentfield/proof/bytes.js';

const TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$/;
const MAX_TEXT = 4096;

/** The canonical encoding of a value as text; integers beyond 2^53 - 1 and lone surrogates have none. */
export function canonicalText(value) {
  if (value === null || typeof value === 'boolean') return String(value);
  if (typeof value === 'number') {
    // from 1e21 on a number is written with an exponent, so it is no integer in JSON
    if (Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(value) < 1e21) bad('an integer is beyond 2^53 - 1');
    if (!Number.isFinite(value)) bad('a number is not finite');
    return JSON.stringify(value);
  }
  if (typeof value === 'string') {
    if (!value.isWellFormed()) bad('a text has a lone surrogate');
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonicalText).join(',')}]`;
  const names = Object.keys(value).sort();
  return `{${names.map((name) => `${canonicalText(name)}:${canonicalText(value[name])}`).join(',')}}`;
}

/** The canonical bytes of a value. */
export const canonical = (value) => utf8(canonicalText(value));

/** The value that canonical bytes encode. @param {Uint8Array} bytes */
export function parseCanonical(bytes) {
  let text;
  let value;
  try {
    text = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true}).decode(bytes);
    value = JSON.parse(text);
    if (canonicalText(value) === text) return value;
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError || error instanceof RangeError) return bad('it is not JSON');
    throw error;
  }
  return bad('its bytes are not the canonical encoding of what they hold');
}

/** An object that has exactly these members. */
export function members(value, name, required, optional = []) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) bad(`${name} is not an object`);
  for (const each of required) if (!Object.hasOwn(value, each)) bad(`${name} has no ${each}`);
  for (const each of Object.keys(value)) {
    if (!required.includes(each) && !optional.includes(each)) bad(`${name} has an unknown member`);
  }
  return value;
}

export function text(value, name) {
  if (typeof value !== 'string' || [...value].length < 1 || [...value].length > MAX_TEXT) bad(`${name} is not a text`);
  return value;
}

export function integer(value, name, least = 0) {
  if (!Number.isSafeInteger(value) || value < least) bad(`${name} is not an integer from ${least} to 2^53 - 1`);
  return value;
}

export function boolean(value, name) {
  if (typeof value !== 'boolean') bad(`${name} is neither true nor false`);
  return value;
}

export function time(value, name) {
  const at = typeof value === 'string' && TIME.test(value) ? new Date(value) : new Date(NaN);
  if (Number.isNaN(at.getTime()) || at.toISOString() !== value.replace('Z', '.000Z')) bad(`${name} is not a time in whole seconds`);
  return value;
}

/** An object without some members. */
export function without(value, ...names) {
  return Object.fromEntries(Object.entries(value).filter(([name]) => !names.includes(name)));
}
