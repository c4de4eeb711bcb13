// The event stream of a session: server-sent events over fetch, so that the token is sent in a header and never in a URL.

import {asCallError, CallError, request} from './http.js';

const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 2_000;
// the control plane sends a comment every 15 s; two missing ones mean a dead connection
const SILENCE_MS = 35_000;
const FINAL = new Set([400, 401, 403, 404, 410]);

/**
 * Parses a stream of text into server-sent events (WHATWG HTML §9.2.6).
 */
export class EventParser {
  #buffer = '';
  #data = [];
  #type = '';
  #id = null;

  /**
   * @param {string} text
   * @returns {{id: string|null, type: string, data: string}[]} The events completed by this text.
   */
  push(text) {
    this.#buffer += text;
    const events = [];
    for (;;) {
      const end = this.#buffer.search(/\r\n|\n|\r/);
      // a lone CR at the end may be the first half of CRLF
      if (end < 0 || (this.#buffer[end] === '\r' && end === this.#buffer.length - 1)) return events;
      const line = this.#buffer.slice(0, end);
      this.#buffer = this.#buffer.slice(end + (this.#buffer.startsWith('\r\n', end) ? 2 : 1));
      if (line === '') {
        if (this.#data.length) events.push({id: this.#id, type: this.#type || 'message', data: this.#data.join('\n')});
        this.#data = [];
        this.#type = '';
        this.#id = null;
      } else {
        this.#field(line);
      }
    }
  }

  #field(line) {
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'data') this.#data.push(value);
    else if (name === 'event') this.#type = value;
    else if (name === 'id' && !value.includes('\0')) this.#id = value;
  }
}

/** Reads the events of one session until it ends, and resumes after lost connections. */
export class EventStream {
  #options;
  #stop = new AbortController();
  #last = '';
  #failures = 0;

  /**
   * @param {{url: string|URL, token: string|null, onEvent: (event: object) => void,
   *          onOpen: () => void, onLost: () => void, onRefused: (error: CallError) => void}} options
   */
  constructor(options) {
    this.#options = options;
  }

  /** Read until the session ends, the stream is refused, or `close()` is called. */
  async run() {
    while (!this.#stop.signal.aborted) {
      try {
        await this.#read();
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        const reason = asCallError(error);
        if (FINAL.has(reason.status)) {
          this.#options.onRefused(reason);
          return;
        }
      }
      if (this.#stop.signal.aborted) return;
      this.#options.onLost();
      await this.#pause();
    }
  }

  close() {
    this.#stop.abort();
  }

  async #read() {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    this.#stop.signal.addEventListener('abort', stop, {once: true});
    let watchdog = setTimeout(stop, SILENCE_MS);
    try {
      const {url, token} = this.#options;
      const headers = this.#last ? {'last-event-id': this.#last} : {};
      const response = await request(url, {token, headers, accept: 'text/event-stream', signal: attempt.signal});
      this.#failures = 0;
      this.#options.onOpen();
      const parser = new EventParser();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const {done, value} = await reader.read();
        if (done) return;
        clearTimeout(watchdog);
        watchdog = setTimeout(stop, SILENCE_MS);
        for (const event of parser.push(value)) this.#take(event);
      }
    } finally {
      clearTimeout(watchdog);
      this.#stop.signal.removeEventListener('abort', stop);
    }
  }

  #take({id, data}) {
    if (this.#stop.signal.aborted) return;
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    if (id) this.#last = id;
    this.#options.onEvent(event);
  }

  #pause() {
    const delay = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.#failures++) * (0.75 + Math.random() / 2);
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delay);
      this.#stop.signal.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, {once: true});
    });
  }
}
