// The live transcript: one bubble per line, partial text while it arrives, and marks for the part that was not heard.

import {duration, el, follow, say} from './dom.js';

const MISSING = 'no words were recognised';
const DISCARDED = {empty: 'nothing was said', too_many: 'too many turns were waiting', cleared: 'cleared'};

/** Renders `transcript` events of a call. */
export class Transcript {
  #rows = new Map();
  #empty = el('p.af-empty', {}, 'What both sides say appears here while it is said.');
  #list = el('ol.af-lines', {'aria-label': 'Transcript'});
  // only final lines are announced: a screen reader would repeat partial ones
  #announcer = el('p.af-unseen', {'aria-live': 'polite', 'data-part': 'announcer'});
  element = el('div.af-scroll', {tabindex: '0', role: 'region', 'aria-label': 'Live transcript'},
    this.#empty, this.#list, this.#announcer);

  clear() {
    this.#rows.clear();
    this.#list.replaceChildren();
    this.#empty.hidden = false;
    say(this.#announcer, '');
  }

  /** @param {object} line Detail of a `transcript` event. */
  show(line) {
    follow(this.element, () => {
      this.#empty.hidden = true;
      const row = this.#rows.get(line.id) ?? this.#add(line);
      this.#fill(row, line);
    });
    if (line.final) say(this.#announcer, `${line.role === 'caller' ? 'You' : 'Agent'}: ${line.text || note(line)}`);
  }

  #add({id, role}) {
    const row = {
      who: el('span.af-who', {}, role === 'caller' ? 'You' : 'Agent'),
      marks: el('span.af-marks'),
      heard: el('span.af-heard'),
      unheard: el('s.af-unheard', {hidden: true, title: 'generated, not heard'}),
    };
    row.text = el('p.af-words', {dir: 'auto'}, row.heard, row.unheard);
    row.element = el('li.af-line', {dataset: {role, lineId: id}}, el('div.af-by', {}, row.who, row.marks), row.text);
    this.#rows.set(id, row);
    this.#list.append(row.element);
    return row;
  }

  #fill(row, line) {
    const {heard, unheard} = split(line);
    say(row.heard, heard || (line.final ? `(${note(line)})` : '…'));
    say(row.unheard, unheard);
    row.unheard.hidden = !unheard;
    const {dataset} = row.element;
    dataset.state = line.final ? 'final' : 'partial';
    dataset.quiet = String(!heard && Boolean(line.final));
    dataset.turnId = line.turnId ?? '';
    const marks = marksOf(line);
    if (row.shown !== marks.join()) {
      row.shown = marks.join();
      row.marks.replaceChildren(...marks.map((mark) => el('span.af-mark', {}, mark)));
    }
  }
}

/** Split a line into the part that was heard and the part that was only generated. */
function split(line) {
  const text = line.text || (line.stale ? line.asked : '') || '';
  if (line.stale) return {heard: '', unheard: text};
  if (!line.interrupted || typeof line.heardText !== 'string') return {heard: text, unheard: ''};
  const heard = line.heardText;
  return {heard, unheard: text.startsWith(heard) ? text.slice(heard.length) : line.remaining ?? ''};
}

function marksOf(line) {
  const marks = [];
  if (line.kind && !['say', 'reply'].includes(line.kind)) marks.push(line.kind.replace('_', ' '));
  if (line.whole) marks.push('cannot be interrupted');
  if (line.stale) marks.push('not spoken: a newer turn came first');
  else if (line.interrupted) marks.push(line.heardMs === undefined ? 'interrupted' : `interrupted after ${duration(line.heardMs)}`);
  else if (line.heardMs) marks.push(`heard ${duration(line.heardMs)}`);
  if (line.failed) marks.push('failed');
  if (line.backchannel) marks.push('said while listening');
  if (line.digit) marks.push('key');
  if (line.asked && line.text && line.verbatim === false) marks.push('other words than asked for');
  return marks;
}

function note(line) {
  if (line.discarded) return DISCARDED[line.discarded] ?? line.discarded;
  if (line.stale) return 'not spoken';
  if (line.failed) return 'could not be spoken';
  if (line.role === 'caller') return MISSING;
  return line.toolCalls ? 'called a tool' : 'nothing was generated';
}
