// Signed documents: heads, credentials with the proof of the node, and entries of the control plane's log (docs/proof-formats.md).

import {Wrong, b64url, bad, concat, leafOf, same, sha256, signedBy, unb64url, unbase58, utf8} from '/agentfield/proof/bytes.js';
import {boolean, canonical, canonicalText, integer, members, text, time, without} from '/agentfield/proof/strict.js';
import {parsePlace, rootOf} from '/agentfield/proof/tree.js';

const CONTEXT = ['https://www.w3.org/ns/credentials/v2', 'https://www.w3.org/ns/credentials/undefined-terms/v2'];
const TYPES = {
  call: 'AgentFieldExecutionCredential',
  tool: 'AgentFieldExecutionCredential',
  turn: 'AgentFieldTurnCredential',
  session: 'AgentFieldSessionCredential',
};
const STATUSES = ['succeeded', 'failed', 'cancelled', 'timeout'];
const COVERAGE = ['credentials', 'final', 'previous', 'root', 'size'];
const REQUIRED = [
  'attempt', 'created_at', 'ended_at', 'execution_id', 'input', 'kind', 'number', 'run_id', 'status', 'target',
];
const OPTIONAL = [
  'duration_ms', 'log', 'node', 'output', 'parent_id', 'problem', 'session', 'session_id', 'speech', 'started_at',
];
const equal = (first, second) => canonicalText(first) === canonicalText(second);
const hash = (value, name) => unb64url(value, 32, name);

/** Verify a signature over a prefix and a document without some members. */
export async function checkSignature(did, prefix, document, signature, name) {
  const message = concat(utf8(prefix), canonical(document));
  if (!await signedBy(did, message, unb64url(signature, 64, 'signature'))) {
    throw new Wrong('bad_signature', `${name} is not signed by ${did}, as it says.`);
  }
}

function parseCoverage(value, name) {
  members(value, name, COVERAGE);
  members(value.credentials, `credentials of ${name}`, ['root', 'size']);
  const credentials = integer(value.credentials.size, 'size of credentials');
  if ((value.credentials.root === null) !== (credentials === 0)) bad('credentials have a root unless their number is 0');
  return {
    size: integer(value.size, 'size', 1),
    root: hash(value.root, 'root'),
    credentials,
    credentialsRoot: credentials === 0 ? null : hash(value.credentials.root, 'root of credentials'),
    final: boolean(value.final, 'final'),
    previous: value.previous === null ? null : hash(value.previous, 'previous'),
  };
}

/** The head that a parsed document states, once form and signature are verified. */
export async function parseHead(value) {
  members(value, 'the head', [...COVERAGE, 'at', 'issuer', 'log', 'signature', 'v']);
  if (value.v !== 1) bad('the version of the head is not 1');
  time(value.at, 'at');
  text(value.log, 'log');
  text(value.issuer, 'issuer');
  const coverage = parseCoverage(Object.fromEntries(COVERAGE.map((name) => [name, value[name]])), 'the head');
  await checkSignature(value.issuer, 'agentfield/log-head/1\n', without(value, 'signature'), value.signature, 'The head');
  return {issuer: value.issuer, log: value.log, ...coverage, leaf: await leafOf(canonical(value))};
}

/** The credential that a parsed document states, once form and the signature of its issuer are verified. */
export async function parseCredential(value, bytes) {
  members(value, 'the credential', ['@context', 'credentialSubject', 'id', 'issuer', 'proof', 'type', 'validFrom']);
  const proof = members(value.proof, 'its proof', [
    '@context', 'created', 'cryptosuite', 'proofPurpose', 'proofValue', 'type', 'verificationMethod',
  ]);
  if (!equal(value['@context'], CONTEXT) || !equal(proof['@context'], CONTEXT)) bad('its contexts are not the two of W3C');
  const subject = parseSubject(value.credentialSubject);
  if (!equal(value.type, ['VerifiableCredential', TYPES[subject.kind]])) bad(`its type is not that of a ${subject.kind}`);
  if (value.id !== `urn:agentfield:credential:${subject.execution_id}`) bad('its id is not that of the execution');
  text(value.issuer, 'issuer');
  if (time(value.validFrom, 'validFrom') !== proof.created) bad('its proof was created at another time than validFrom');
  const stated = [proof.type, proof.cryptosuite, proof.proofPurpose];
  if (!equal(stated, ['DataIntegrityProof', 'eddsa-jcs-2022', 'assertionMethod'])) bad('its proof is of another kind');
  if (proof.verificationMethod !== `${value.issuer}#${value.issuer.replace('did:key:', '')}`) bad('its proof names another key');
  if (typeof proof.proofValue !== 'string' || !proof.proofValue.startsWith('z')) bad('its proofValue is not in base58btc');
  const signature = unbase58(proof.proofValue.slice(1), 64, 'proofValue');
  const hashes = [without(proof, 'proofValue'), without(value, 'proof')].map((each) => sha256(canonical(each)));
  if (!await signedBy(value.issuer, concat(...await Promise.all(hashes)), signature)) {
    throw new Wrong('bad_signature', 'The credential is not signed by the issuer that it names.');
  }
  return {issuer: value.issuer, subject, leaf: await leafOf(bytes)};
}

function parseSubject(value) {
  members(value, 'credentialSubject', REQUIRED, OPTIONAL);
  if (!Object.hasOwn(TYPES, value.kind)) bad('its kind is not call, tool, turn or session');
  if (!STATUSES.includes(value.status)) bad('its status is unknown');
  const outcome = value.status === 'succeeded' ? 'output' : 'problem';
  if (!(outcome in value) || ('output' in value) === ('problem' in value)) bad(`its one outcome is not ${outcome}`);
  for (const name of ['execution_id', 'run_id', 'target']) text(value[name], name);
  for (const name of ['session_id', 'parent_id']) if (name in value) text(value[name], name);
  for (const name of ['created_at', 'started_at', 'ended_at']) if (name in value) time(value[name], name);
  for (const name of ['attempt', 'duration_ms']) if (name in value) integer(value[name], name);
  integer(value.number, 'number', 1);
  for (const name of ['input', outcome]) hash(value[name], name);
  if (('started_at' in value) !== ('duration_ms' in value)) bad('started_at and duration_ms occur together');
  if (('session' in value) !== (value.kind === 'session')) bad('exactly a session has the member session');
  if ('session' in value) {
    members(value.session, 'session', ['provider', 'transport'], ['end_reason', 'model', 'turns', 'voice']);
    for (const [name, item] of Object.entries(value.session)) (name === 'turns' ? integer : text)(item, name);
  }
  if ('speech' in value) {
    if (!Array.isArray(value.speech) || value.speech.length === 0) bad('speech is not a list');
    value.speech.forEach(checkSpeech);
  }
  if ('node' in value) checkNodeForm(value.node);
  return {...value, outcome, coverage: 'log' in value ? parseCoverage(value.log, 'log') : null};
}

function checkSpeech(speech) {
  members(speech, 'speech', ['body', 'event'], ['heard_method', 'heard_ms', 'verbatim']);
  integer(speech.event, 'event', 1);
  hash(speech.body, 'body');
  if ('verbatim' in speech) boolean(speech.verbatim, 'verbatim');
  if ('heard_ms' in speech) integer(speech.heard_ms, 'heard_ms');
  if ('heard_method' in speech) text(speech.heard_method, 'heard_method');
}

function checkNodeForm(node) {
  members(node, 'node', ['audience', 'did', 'epoch', 'instance_id', 'node_id', 'result_proof', 'retry']);
  for (const name of ['audience', 'did', 'instance_id', 'node_id']) text(node[name], name);
  integer(node.epoch, 'epoch');
  boolean(node.retry, 'retry');
  const proof = members(node.result_proof, 'result_proof', ['index', 'path', 'root', 'signature', 'size', 'v']);
  if (proof.v !== 2 || integer(proof.size, 'size', 1) > 256) bad('its result_proof is of another version or size');
  hash(proof.root, 'root');
  unb64url(proof.signature, 64, 'signature');
  parsePlace({index: proof.index, path: proof.path, size: proof.size}, 'result_proof');
}

/** Whether the node that a subject names signed exactly this outcome (docs/link-signatures.md). @returns {Promise<boolean>} */
export async function signedByNode(subject) {
  const {node} = subject;
  const {result_proof: proof} = node;
  const statement = {
    audience: node.audience,
    node_id: node.node_id,
    instance_id: node.instance_id,
    execution_id: subject.execution_id,
    attempt: subject.attempt,
    epoch: node.epoch,
    target: subject.target,
    run_id: subject.run_id,
    parent_id: subject.parent_id ?? null,
    session_id: subject.session_id ?? null,
    status: subject.status,
    retry: node.retry,
    input: subject.input,
    [subject.outcome]: subject[subject.outcome],
  };
  const leaf = await sha256(concat(utf8('\x00agentfield/result/2\n'), canonical(statement)));
  const place = parsePlace({index: proof.index, path: proof.path, size: proof.size}, 'result_proof');
  if (b64url(await rootOf(place, leaf)) !== proof.root) return false;
  const root = {audience: node.audience, did: node.did, root: proof.root, size: proof.size};
  const message = concat(utf8('agentfield/results-root/2\n'), canonical(root));
  return signedBy(node.did, message, unb64url(proof.signature, 64, 'signature'));
}

/** A rotation of the issuer's key, in the control plane's log that a head states. */
export async function parseRotation(value, head) {
  members(value, 'the rotation', ['entry', 'place']);
  const entry = members(value.entry, 'its entry', ['at', 'from', 'seq', 'signatures', 'size', 'to', 'type']);
  members(entry.signatures, 'its signatures', ['from', 'to']);
  if (entry.type !== 'rotation' || entry.from === entry.to) bad('the entry is not a rotation');
  await checkEntry(entry, parsePlace(value.place, 'its place'), head);
  if (entry.size !== entry.seq) bad('its size is not that of the log with it');
  for (const side of ['from', 'to']) {
    text(entry[side], side);
    await checkSignature(entry[side], 'agentfield/rotation/1\n', without(entry, 'signatures'), entry.signatures[side], 'The rotation');
  }
  return {old: entry.from, new: entry.to, size: entry.size};
}

/** An anchor of a head, in the control plane's log that a head states. */
export async function parseAnchor(value, head) {
  members(value, 'the anchor', ['batch', 'entry', 'leaf', 'log']);
  const entry = members(value.entry, 'its entry', ['at', 'root', 'seq', 'size', 'type']);
  if (entry.type !== 'anchors') bad('the entry does not anchor heads');
  await checkEntry(entry, parsePlace(value.log, 'its place in the log'), head);
  const leaf = hash(value.leaf, 'leaf');
  const batch = parsePlace(value.batch, 'its place in the batch');
  if (batch.size !== entry.size || !same(await rootOf(batch, leaf), hash(entry.root, 'root'))) {
    bad('its place in the batch does not lead to the root of the batch');
  }
  return {leaf: value.leaf, index: entry.seq - 1};
}

async function checkEntry(entry, place, head) {
  time(entry.at, 'at');
  if (place.index !== integer(entry.seq, 'seq', 1) - 1) bad('its place is not that of its number');
  if (place.size !== head.size || !same(await rootOf(place, await leafOf(canonical(entry))), head.root)) {
    bad('its place does not lead to the root of the control plane\'s log');
  }
}
