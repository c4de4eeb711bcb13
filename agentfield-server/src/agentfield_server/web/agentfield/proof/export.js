// Verification of an export in the browser: the same checks, in the same order, as `af verify` (agentfield.proof).

import {Wrong, b64url, bad, concat, leafOf, same, sha256, unb64url} from '/agentfield/proof/bytes.js';
import {checkSignature, parseAnchor, parseCredential, parseHead, parseRotation, signedByNode} from '/agentfield/proof/documents.js';
import {checkBindings, issuerKeys} from '/agentfield/proof/issuers.js';
import {boolean, canonical, integer, members, parseCanonical, text, time, without} from '/agentfield/proof/strict.js';
import {LogTree} from '/agentfield/proof/tree.js';

const KINDS = ['header', 'control_plane', 'rotation', 'event', 'head', 'credential', 'anchor', 'body', 'end'];
const ONCE = ['header', 'control_plane', 'end'];
const MAX_LINE = 32 * 1024 * 1024;

/**
 * Verify an export; no content of it rejects the promise.
 * @param {Uint8Array} bytes The file.
 * @param {{issuer?: string|null, heads?: object[], nodes?: string[], revoked?: Record<string, number>,
 *          progress?: (line: number) => void}} [options] `issuer` comes from another source than the file; `heads` are parsed.
 * @returns {Promise<object>} The report, with the members that the report of `af verify --json` has.
 */
export async function verifyExport(bytes, {issuer = null, heads = [], nodes = [], revoked = {}, progress = () => {}} = {}) {
  const verification = new Verification(issuer, nodes, revoked);
  const {report} = verification;
  try {
    await verification.read(bytes, progress);
    await verification.compare(heads);
  } catch (error) {
    if (!(error instanceof Wrong) || error.code === 'foreign_head') throw error;
    const {item = verification.item, line = verification.line} = error.where;
    report.problem = {line, item, why: error.message, code: error.code};
    return report;
  }
  report.verdict = issuer === null ? 'consistent' : report.final ? 'complete' : 'prefix';
  report.not_checked = [...verification.notChecked(heads, nodes)];
  return report;
}

class Verification {
  constructor(issuer, nodes, revoked) {
    this.report = {
      kind: 'export', verdict: 'wrong', issuer: null, pinned: issuer !== null, run_id: null, session_id: null, events: 0,
      heads: 0, credentials: 0, bodies: 0, covered: 0, final: false, anchored: null, node_proofs: {}, without_node: 0,
      held: [], not_checked: [], problem: null,
    };
    this.item = 'the file';
    this.line = 0;
    Object.assign(this, {issuer, nodes, revoked, header: null, controlPlane: null, keys: null});
    Object.assign(this, {rotations: [], events: [], ended: new Map(), log: new LogTree(), heads: [], embedded: []});
    Object.assign(this, {credentials: [], byExecution: new Map(), issued: new LogTree(), anchors: [], bodyPlace: 0});
  }

  async read(bytes, progress) {
    let place = -1;
    let counted = 0;
    for (let start = 0; start < bytes.length;) {
      const feed = bytes.indexOf(10, start);
      this.line += 1;
      this.item = `line ${this.line}`;
      if (place === KINDS.indexOf('end')) bad('a line follows the end');
      if (feed < 0) bad('the line has no line feed');
      if (feed + 1 - start > MAX_LINE) bad(`the line has more than ${MAX_LINE} bytes`);
      const value = parseCanonical(bytes.subarray(start, feed));
      const names = value !== null && typeof value === 'object' && !Array.isArray(value) ? Object.keys(value) : [];
      const found = names.length === 1 ? KINDS.indexOf(names[0]) : -1;
      if (found < 0) bad('the line is not an object with one member that names its kind');
      const kind = KINDS[found];
      if ((this.line === 1) !== (kind === 'header')) bad('the header is the first line, and only that');
      if (found < place || (found === place && ONCE.includes(kind))) bad(`a line ${kind} stands behind its place`);
      await this.#close(place, found);
      counted = found === place ? counted + 1 : 1;
      place = found;
      this.item = `${kind} ${counted}`;
      const before = bytes.subarray(0, start);
      await this[`take_${kind}`](value[kind], bytes.subarray(start + kind.length + 4, feed - 1), before);
      start = feed + 1;
      progress(this.line);
    }
    if (place !== KINDS.indexOf('end')) {
      this.item = `line ${this.line + 1}`;
      this.line += 1;
      bad('the file ends without the signature of the issuer');
    }
    this.#whole();
  }

  /** Do what is due between the kinds of lines, once the last line of a kind was taken. */
  async #close(before, after) {
    const passes = (kind) => before < KINDS.indexOf(kind) && after >= KINDS.indexOf(kind);
    if (passes('event')) this.#closeKeys();
    if (passes('head') && this.events.length === 0) bad('the file has no events');
    if (passes('anchor')) await this.#closeCredentials();
    if (passes('body')) checkBindings(this.keys, this.heads, this.anchors, this.credentials);
  }

  take_header(value) {
    members(value, 'the header', ['bodies', 'exported_at', 'issuer', 'log_format', 'run_id', 'v'], ['session_id']);
    if (value.v !== 1) bad('the version of the export is not 1');
    time(value.exported_at, 'exported_at');
    if (integer(value.log_format, 'log_format', 1) > 2) bad('the format of the log is not 1 or 2');
    text(value.issuer, 'issuer');
    text(value.run_id, 'run_id');
    boolean(value.bodies, 'bodies');
    if ('session_id' in value) text(value.session_id, 'session_id');
    this.header = {...value, session_id: value.session_id ?? null};
    Object.assign(this.report, {issuer: value.issuer, run_id: value.run_id, session_id: this.header.session_id});
  }

  async take_control_plane(value) {
    const head = await parseHead(value);
    if (head.log !== 'control_plane' || head.credentials !== 0) bad('it is not a head of the control plane\'s log');
    if (head.issuer !== this.header.issuer) throw new Wrong('wrong_issuer', 'It is not signed by the issuer of the file.');
    this.controlPlane = head;
  }

  async take_rotation(value) {
    if (this.controlPlane === null) bad('a rotation needs the head of the control plane\'s log');
    this.rotations.push(await parseRotation(value, this.controlPlane));
  }

  #closeKeys() {
    this.keys = issuerKeys(this.header.issuer, this.rotations, this.revoked);
    if (this.issuer !== null && !this.keys.some(({did}) => did === this.issuer)) {
      const why = `The file is of the issuer ${this.header.issuer}, not of ${this.issuer}.`;
      throw new Wrong('wrong_issuer', why, {item: 'header 1', line: 1});
    }
  }

  #signer(did) {
    if (!this.keys.some((key) => key.did === did)) {
      throw new Wrong('wrong_issuer', `It is signed by ${did}, which is not the issuer.`);
    }
  }

  async take_event(entry, content) {
    members(entry, 'the event', ['at', 'body', 'execution_id', 'id', 'run_id', 'seq', 'session_id', 'type']);
    const expected = this.events.length + 1;
    if (entry.seq !== expected) {
      throw new Wrong('bad_sequence', `Event ${expected} is expected here, and event ${String(entry.seq).slice(0, 20)} stands here.`);
    }
    if (entry.run_id !== this.header.run_id || ![null, this.header.session_id].includes(entry.session_id)) {
      throw new Wrong('foreign_event', 'The event is of another run or session.');
    }
    if (entry.execution_id !== null) text(entry.execution_id, 'execution_id');
    text(entry.id, 'id');
    if (typeof entry.at !== 'number' || entry.at < 0) bad('at is not a time');
    const old = this.header.log_format === 1;
    if (old) members(entry.body, 'its body', Object.keys(entry.body ?? {}));
    else unb64url(entry.body, 32, 'body');
    this.events.push({type: text(entry.type, 'type'), execution: entry.execution_id, commitment: old ? null : entry.body});
    if (entry.type === 'execution.ended') {
      if (entry.execution_id === null || this.ended.has(entry.execution_id)) {
        throw new Wrong('bad_sequence', 'The execution ended twice, or the event names none.');
      }
      this.ended.set(entry.execution_id, expected);
    }
    await this.log.append(await leafOf(content));
    this.report.events = expected;
  }

  async take_head(value) {
    const head = await parseHead(value);
    this.#signer(head.issuer);
    if (head.log !== this.header.run_id) throw new Wrong('foreign_head_line', 'The head is of another log.');
    const before = this.heads.at(-1);
    if (before !== undefined && (head.size < before.size || head.credentials < before.credentials)) {
      throw new Wrong('bad_sequence', 'The head covers less than the one before it.');
    }
    this.heads.push(head);
    await this.#checkEvents(head, `head ${this.heads.length}`, before?.size ?? 0);
  }

  async #checkEvents(head, name, after) {
    const count = this.log.size;
    if (head.size > count) {
      const why = `${name} covers ${head.size} events, and the file has ${count}.`;
      throw new Wrong('events_missing', why, {item: `event ${count + 1}`, line: null});
    }
    if (!same(await this.log.root(head.size), head.root)) {
      const first = Math.min(after + 1, head.size);
      const item = first === head.size ? `event ${first}` : `events ${first} to ${head.size}`;
      throw new Wrong('events_changed', `The root over the events up to ${head.size} is not that of ${name}.`, {item, line: null});
    }
  }

  async take_credential(value, content) {
    const credential = await parseCredential(value, content);
    const {subject} = credential;
    this.#signer(credential.issuer);
    this.#checkSubject(subject);
    await this.#checkNode(subject);
    if (subject.coverage !== null) {
      const head = {...subject.coverage, issuer: credential.issuer, log: subject.run_id, leaf: credential.leaf, embedded: true};
      await this.#checkEvents(head, 'the head in the credential', 0);
      if (head.credentials !== subject.number - 1) bad('its head does not cover exactly the credentials before it');
      this.embedded.push(head);
    }
    await this.issued.append(credential.leaf);
    this.credentials.push(credential);
    this.byExecution.set(subject.execution_id, subject);
    this.report.credentials = this.issued.size;
  }

  #checkSubject(subject) {
    const expected = this.issued.size + 1;
    if (subject.number !== expected) {
      throw new Wrong('bad_sequence', `Credential ${expected} is expected here, not number ${subject.number}.`);
    }
    if (subject.run_id !== this.header.run_id || (subject.session_id ?? null) !== this.header.session_id) {
      throw new Wrong('foreign_credential', 'The credential is of another run or session.');
    }
    if (!this.ended.has(subject.execution_id)) throw new Wrong('no_event', 'The log has no event that its execution ended.');
    if (this.byExecution.has(subject.execution_id)) throw new Wrong('bad_sequence', 'Its execution has a credential already.');
    for (const speech of subject.speech ?? []) {
      const event = this.events[speech.event - 1];
      if (event?.type !== 'speech.ended' || event.commitment !== speech.body) {
        throw new Wrong('no_event', `Its speech is not that of event ${speech.event}.`);
      }
    }
  }

  async #checkNode(subject) {
    const {report} = this;
    if (!('node' in subject)) {
      if (['call', 'tool'].includes(subject.kind)) {
        if (this.nodes.length > 0 && subject.status === 'succeeded') throw new Wrong('no_node_proof', 'No node signed its output.');
        report.without_node += 1;
      }
      return;
    }
    const {did, audience} = subject.node;
    if (!await signedByNode(subject)) {
      const why = `The node ${did} did not sign this: output, target, status, path or another field differs.`;
      throw new Wrong('bad_node_proof', why);
    }
    if (!this.keys.some((key) => key.did === audience)) {
      throw new Wrong('bad_node_proof', 'The node stated its result for another control plane.');
    }
    if (this.nodes.length > 0 && !this.nodes.includes(did)) {
      throw new Wrong('unknown_node', `The node ${did} is none of those that are expected.`);
    }
    report.node_proofs[did] = (report.node_proofs[did] ?? 0) + 1;
  }

  async #closeCredentials() {
    this.heads = [...this.heads, ...this.embedded].sort((first, second) => first.size - second.size);
    this.report.heads = this.heads.length;
    let previous = null;
    for (const [at, head] of this.heads.entries()) {
      const name = `head ${at + 1}`;
      if (!same(head.previous, previous)) throw new Wrong('bad_sequence', `${name} does not name the one before it.`, {item: name, line: null});
      previous = head.leaf;
      if (head.credentials > this.issued.size) {
        const item = `credential ${this.issued.size + 1}`;
        throw new Wrong('credentials_missing', `${name} covers ${head.credentials} credentials.`, {item, line: null});
      }
      if (head.credentials > 0 && !same(await this.issued.root(head.credentials), head.credentialsRoot)) {
        const item = `credentials up to ${head.credentials}`;
        throw new Wrong('credentials_changed', `The root over them is not that of ${name}.`, {item, line: null});
      }
    }
  }

  async take_anchor(value) {
    if (this.controlPlane === null) bad('an anchor needs the head of the control plane\'s log');
    const anchor = await parseAnchor(value, this.controlPlane);
    if (!this.heads.some((head) => b64url(head.leaf) === anchor.leaf)) {
      throw new Wrong('foreign_anchor', 'It anchors no head of this file.');
    }
    if (this.anchors.length > 0 && anchor.index <= this.anchors.at(-1).index) {
      throw new Wrong('bad_sequence', 'It stands before the anchor that it follows.');
    }
    this.anchors.push(anchor);
    this.report.anchored = anchor.index + 1;
  }

  async take_body(value) {
    if (!this.header.bodies) bad('the header says that there are no bodies');
    const ofEvent = value !== null && typeof value === 'object' && 'event' in value;
    const place = await (ofEvent ? this.#eventBody(value) : this.#executionBody(value));
    if (place <= this.bodyPlace) throw new Wrong('bad_sequence', 'The body stands behind its place.');
    this.bodyPlace = place;
    this.report.bodies += 1;
  }

  async #eventBody(value) {
    members(value, 'the body', ['event', 'salt', 'value']);
    const event = this.events[integer(value.event, 'event', 1) - 1];
    if (!event?.commitment) throw new Wrong('no_event', `There is no event ${value.event} with a commitment.`);
    await open(value, event.commitment, `event ${value.event}`);
    const subject = event.type === 'execution.ended' ? this.byExecution.get(event.execution) : undefined;
    if (subject !== undefined && ['kind', 'status', 'target'].some((name) => value.value?.[name] !== subject[name])) {
      const item = `credential ${subject.number}`;
      throw new Wrong('contradiction', `Event ${value.event} says that the execution ended otherwise.`, {item, line: null});
    }
    return value.event;
  }

  async #executionBody(value) {
    members(value, 'the body', ['execution', 'part', 'salt', 'value']);
    const subject = this.byExecution.get(text(value.execution, 'execution'));
    if (subject === undefined) throw new Wrong('no_credential', 'The execution of the body has no credential.');
    if (!['input', subject.outcome].includes(value.part)) bad(`part is not input or ${subject.outcome}`);
    await open(value, subject[value.part], `${value.part} of ${subject.execution_id}`);
    return this.events.length + 2 * subject.number + (value.part === 'input' ? 0 : 1);
  }

  async take_end(value, _content, before) {
    const {item} = this;
    this.item = `line ${this.line}`;
    members(value, 'the end', ['issuer', 'lines', 'sha256', 'signature']);
    if (value.lines !== this.line - 1) bad(`the end counts ${value.lines} lines, and ${this.line - 1} are before it`);
    if (!same(unb64url(value.sha256, 32, 'sha256'), await sha256(before))) bad('the lines before the end are not those that were signed');
    await checkSignature(value.issuer, 'agentfield/export/1\n', without(value, 'signature'), value.signature, 'The export');
    this.item = item;
    if (value.issuer !== this.header.issuer) throw new Wrong('wrong_issuer', 'The end is signed by another key than that of the header.');
  }

  #whole() {
    const {report} = this;
    const last = this.heads.at(-1);
    if (last !== undefined) {
      report.covered = last.size;
      const credentials = last.credentials + (last.embedded ? 1 : 0);
      report.final = last.final && credentials === this.issued.size && last.size === report.events;
    }
    if (report.final && this.ended.size !== this.byExecution.size) {
      const [execution, seq] = [...this.ended].find(([each]) => !this.byExecution.has(each));
      const why = `Execution ${execution} ended with event ${seq} and has no credential.`;
      throw new Wrong('credentials_missing', why, {item: `credential ${this.issued.size + 1}`, line: null});
    }
    const {end} = this.keys.at(-1);
    if (end === null) return;
    if (this.controlPlane !== null && this.controlPlane.size > end) {
      throw new Wrong('bad_binding', 'The control plane\'s log is signed by a revoked key.', {item: 'control_plane 1', line: null});
    }
    if (!report.final) throw new Wrong('bad_binding', 'The lines after the last head are signed by a revoked key only.', {item: 'the end'});
  }

  /** Compare the heads that the reader holds with the file. */
  async compare(held) {
    for (const head of held) {
      const own = head.log === 'control_plane';
      if (!this.keys.some(({did}) => did === head.issuer) || (!own && head.log !== this.header.run_id)) {
        throw new Wrong('foreign_head', `The held head is of ${head.log} and the issuer ${head.issuer}, not of this file.`);
      }
      let state = 'consistent';
      if (own) {
        if (this.controlPlane?.size !== head.size) state = 'not checked';
        else if (!same(this.controlPlane.root, head.root)) {
          const why = 'The control plane\'s log is not that of the held head: it was rewritten.';
          throw new Wrong('fork', why, {item: 'control_plane 1', line: null});
        }
      } else {
        await compareTree(head.size, head.root, this.log, 'event');
        if (head.credentials > 0) await compareTree(head.credentials, head.credentialsRoot, this.issued, 'credential');
      }
      this.report.held.push({log: head.log, size: head.size, state});
    }
  }

  * notChecked(heads, nodes) {
    const {report} = this;
    if (!report.pinned) yield 'the issuer: give its DID, from another source than the file';
    if (heads.length === 0) yield 'rollback and fork: give a head that you hold';
    else if (report.held.some(({state}) => state !== 'consistent')) yield 'a held head of the control plane\'s log: the file has one of another size';
    if (nodes.length === 0) yield 'the nodes: an issuer can invent one; give the DIDs of yours';
    if (report.anchored === null) yield 'the time of the heads: none is anchored in the control plane\'s log';
    if (report.events > report.covered) yield `events ${report.covered + 1} to ${report.events}: no head covers them`;
  }
}

async function compareTree(size, root, tree, name) {
  if (size > tree.size) {
    const why = `The held head covers ${size} ${name}s, and the file has ${tree.size}: the log was cut back.`;
    throw new Wrong('rollback', why, {item: `${name} ${tree.size + 1}`, line: null});
  }
  if (!same(await tree.root(size), root)) {
    const why = `The first ${size} ${name}s are not those of the held head: the log was rewritten.`;
    throw new Wrong('fork', why, {item: `${name}s up to ${size}`, line: null});
  }
}

async function open(value, committed, item) {
  const salt = unb64url(value.salt, 32, 'salt');
  if (b64url(await sha256(concat(Uint8Array.of(2), salt, canonical(value.value)))) !== committed) {
    throw new Wrong('body_changed', 'Body and salt do not open the commitment.', {item});
  }
}
