// Error area: the message, the hint, and the code to look up or to report.

import {el} from './dom.js';

const MOST = 4;
const NO_VOICE = new Set(['no_microphone', 'microphone_denied', 'microphone_busy', 'microphone_failed', 'insecure_page']);

/** The error area of a call page. */
export class Errors {
  #useRecording;
  #shown = new Map();
  element = el('div.af-errors', {role: 'alert'});

  /** @param {() => void} useRecording Called by the button that is shown with microphone errors. */
  constructor(useRecording) {
    this.#useRecording = useRecording;
  }

  clear() {
    this.#shown.clear();
    this.element.replaceChildren();
  }

  /** @param {{code: string, message: string, hint?: string}} error */
  show(error) {
    const key = `${error.code} ${error.message}`;
    if (this.#shown.has(key)) return;
    const close = () => { this.#shown.delete(key); box.remove(); };
    const recording = () => { close(); this.#useRecording(); };
    const box = el('div.af-error', {dataset: {code: error.code}},
      el('div.af-error-text', {},
        el('p.af-error-message', {}, error.message),
        error.hint ? el('p.af-error-hint', {}, error.hint) : null,
        el('code.af-error-code', {}, error.code)),
      NO_VOICE.has(error.code) ? el('button.af-primary', {type: 'button', onclick: recording}, 'Use a recording') : null,
      el('button.af-small', {type: 'button', 'aria-label': 'Dismiss', onclick: close}, '✕'));
    this.#shown.set(key, box);
    this.element.append(box);
    while (this.#shown.size > MOST) {
      const [oldest, first] = this.#shown.entries().next().value;
      first.remove();
      this.#shown.delete(oldest);
    }
  }
}
