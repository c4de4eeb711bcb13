// The event log: every received event, newest last, filtered by source and by text.

import {copy, el, follow, pretty} from './dom.js';

const MOST = 500;
const SOURCES = {all: 'Everything', recorded: 'Recorded', live: 'Live only', channel: 'Data channel'};

/** Renders `event` events of a call. */
export class EventLog {
  #rows = [];
  #words = '';
  #source = 'all';
  #list = el('ol.af-events');
  #count = el('span.af-count', {}, '0');
  #scroll = el('div.af-scroll.af-logbox', {tabindex: '0', role: 'region', 'aria-label': 'Event log'}, this.#list);
  element = this.#build();

  clear() {
    this.#rows = [];
    this.#list.replaceChildren();
    this.#count.textContent = '0';
  }

  /** @param {{source: string, event: object}} detail Detail of an `event` event. */
  add({source, event}) {
    const row = {source, event, text: '', element: null};
    row.text = `${source} ${JSON.stringify(event)}`.toLowerCase();
    row.element = this.#row(source, event);
    row.element.hidden = !this.#fits(row);
    follow(this.#scroll, () => {
      this.#rows.push(row);
      this.#list.append(row.element);
      while (this.#rows.length > MOST) this.#rows.shift().element.remove();
    });
    this.#count.textContent = String(this.#rows.length);
  }

  #row(source, event) {
    const json = el('pre.af-json', {dir: 'auto'});
    const when = new Date(event.at ? event.at * 1000 : Date.now()).toLocaleTimeString('en-GB');
    // the JSON of a row is rendered only when the row is opened
    const show = ({target}) => { if (target.open) json.textContent = pretty(event); };
    return el('li.af-event', {dataset: {source, type: event.type}}, el('details', {ontoggle: show},
      el('summary', {},
        el('span.af-seq', {}, event.seq === undefined ? '' : String(event.seq)),
        el('span.af-type', {}, String(event.type)), el('span.af-when', {}, when)),
      json));
  }

  #fits(row) {
    return (this.#source === 'all' || row.source === this.#source) && row.text.includes(this.#words);
  }

  #refilter() {
    for (const row of this.#rows) row.element.hidden = !this.#fits(row);
  }

  #build() {
    const words = el('input', {
      type: 'search', placeholder: 'Filter', 'aria-label': 'Filter events', spellcheck: 'false', autocomplete: 'off',
      oninput: ({target}) => { this.#words = target.value.trim().toLowerCase(); this.#refilter(); },
    });
    const source = el('select', {
      'aria-label': 'Which events', onchange: ({target}) => { this.#source = target.value; this.#refilter(); },
    }, ...Object.entries(SOURCES).map(([value, label]) => el('option', {value}, label)));
    const button = el('button.af-small', {type: 'button', onclick: () => this.#copy(button)}, 'Copy JSON');
    return el('details.af-card.af-log', {},
      el('summary', {}, el('h2', {}, 'Events '), this.#count),
      el('div.af-row', {}, words, source, button), this.#scroll);
  }

  async #copy(button) {
    const events = this.#rows.filter((row) => this.#fits(row)).map((row) => row.event);
    button.textContent = (await copy(pretty(events), this.#list)) ? 'Copied' : 'Selected';
    setTimeout(() => { button.textContent = 'Copy JSON'; }, 1500);
  }
}
