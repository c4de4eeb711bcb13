// The page that verifies an export: reads the form, runs the verification, and shows the report.

import {parseHead} from '/agentfield/proof/documents.js';
import {verifyExport} from '/agentfield/proof/export.js';
import {parseCanonical} from '/agentfield/proof/strict.js';

const TITLES = {
  complete: 'complete: a final head covers all events and credentials',
  prefix: 'prefix: nothing is wrong, but no final head covers all events and credentials',
  consistent: 'consistent, issuer not pinned',
  wrong: 'wrong',
};
const form = document.querySelector('form');
const output = document.querySelector('output');

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const button = form.querySelector('button');
  button.disabled = true;
  delete output.dataset.verdict;
  try {
    show(await verify(new FormData(form)));
  } catch (error) {
    output.replaceChildren(element('h2', 'not verified'), element('p', reasonOf(error)));
    output.dataset.verdict = 'failed';
  } finally {
    button.disabled = false;
  }
});

function reasonOf(error) {
  if (globalThis.crypto?.subtle === undefined) return 'Open this page over HTTPS or from localhost: the browser allows WebCrypto there only.';
  if (error.name === 'NotSupportedError') return 'This browser has no Ed25519 in WebCrypto; use a newer one, or af verify.';
  return String(error.message ?? error);
}

async function verify(form) {
  const heads = [];
  for (const file of form.getAll('heads')) {
    if (file.size > 0) heads.push(await parseHead(parseCanonical(utf8Line(new Uint8Array(await file.arrayBuffer())))));
  }
  const progress = (line) => {
    if (line % 500 === 0) output.replaceChildren(element('p', `${line} lines are verified`));
  };
  return verifyExport(new Uint8Array(await form.get('file').arrayBuffer()), {
    issuer: form.get('issuer').trim() || null,
    nodes: form.get('nodes').split(/[\s,]+/).filter(Boolean),
    heads,
    progress,
  });
}

/** The bytes of a line without its line feed. */
function utf8Line(bytes) {
  return bytes.at(-1) === 10 ? bytes.subarray(0, -1) : bytes;
}

function show(report) {
  const facts = report.problem === null
    ? [
      ['issuer', `${report.issuer}${report.pinned ? '' : ' (as the file says)'}`],
      ['of', report.session_id ?? report.run_id],
      ['events', `${report.events}, of which heads cover ${report.covered}`],
      ['heads', `${report.heads}, the last one ${report.final ? 'final' : 'not final'}`],
      ['credentials', `${report.credentials}, ${report.without_node} calls without the signature of a node`],
      ['bodies', report.bodies],
      ...Object.entries(report.node_proofs).map(([did, count]) => ['node', `${did} signed ${count}`]),
      ...report.held.map((held) => ['held head', `${held.log} of size ${held.size}: ${held.state}`]),
      ...report.not_checked.map((each) => ['not checked', each]),
    ]
    : [
      ['item', report.problem.item],
      ['line', report.problem.line ?? '-'],
      ['reason', report.problem.why],
      ['code', report.problem.code],
    ];
  const list = element('dl');
  for (const [name, value] of facts) list.append(element('dt', name), element('dd', String(value)));
  output.replaceChildren(element('h2', TITLES[report.verdict]), list);
  output.dataset.verdict = report.verdict;
}

function element(name, text = '') {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
