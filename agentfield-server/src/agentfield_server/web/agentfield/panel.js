// <agentfield-call>: the complete UI of a call. Attribute `target` names the session; without it the visitor selects one.
//
//   panel.recordings = [{label, url}]    caller recordings for pages without a microphone
//   panel.call = call                    use a session that was started elsewhere
//   events `call` {call}, `workflows` {executions}
//   elements inside it are shown beside the call

import {Call} from '../agentfield.js';
import {Controls} from './controls.js';
import {el, say} from './dom.js';
import {Errors} from './errors.js';
import {asCallError, request} from './http.js';
import {EventLog} from './log.js';
import {Meters} from './meters.js';
import {HeldHead} from './proof/held_head.js';
import {StatusBar} from './status.js';
import {ToolTimeline} from './tools.js';
import {Transcript} from './transcript.js';

const WORKFLOW_DELAY_MS = 150;

class CallPanel extends HTMLElement {
  #call = null;
  #fresh = false;
  #status = new StatusBar();
  #errors = new Errors(() => this.#useRecording());
  #meters = new Meters();
  #controls = new Controls({
    start: () => this.#start(),
    hangUp: () => this.#call?.hangUp(),
    mute: (on) => this.#call?.mute(on),
    again: () => this.#call?.speak().catch((error) => this.#errors.show(asCallError(error))),
    talk: () => this.#talk(),
    send: () => this.#call?.send().catch((error) => this.#errors.show(asCallError(error))),
  });
  #transcript = new Transcript();
  #tools = new ToolTimeline();
  #toolCard = el('section.af-card', {'aria-label': 'Tools'}, el('h2', {}, 'Tool calls'), this.#tools.element);
  #log = new EventLog();
  #heard = el('div.af-kept', {hidden: true});
  #words = el('input', {
    type: 'text', 'aria-label': 'Type instead of speaking', placeholder: 'Type instead of speaking', maxlength: 8000,
    autocomplete: 'off', disabled: true,
  });
  #send = el('button', {type: 'submit', disabled: true}, 'Send');
  #fetching = null;
  #kept = '';
  #built = false;

  connectedCallback() {
    if (this.#built) return;
    this.#built = true;
    const own = [...this.children];
    const typed = el('form.af-row.af-typed', {onsubmit: (event) => this.#type(event)}, this.#words, this.#send);
    this.append(
      this.#status.element,
      this.#errors.element,
      el('div.af-grid', {},
        el('section.af-card.af-talk', {'aria-label': 'Call'},
          this.#controls.element, this.#meters.element, this.#transcript.element, typed, this.#heard),
        el('div.af-side', {}, ...own,
          this.#toolCard,
          this.#log.element)),
    );
    if (this.getAttribute('target')) this.#controls.targets([this.getAttribute('target')], false);
    this.#meters.stop();
    this.#log.element.hidden = true;
    this.#controls.state('idle', false);
  }

  /** @param {{label: string, url: string}[]} list */
  set recordings(list) {
    this.#controls.recordings(list);
  }

  /** The displayed call. @returns {Call|null} */
  get call() {
    return this.#call;
  }

  /** @param {Call} call A session that waits for its caller. */
  set call(call) {
    this.#attach(call);
    this.#controls.targets([call.facts.target]);
  }

  /** List the sessions of the linked nodes. */
  async chooseTarget() {
    try {
      const response = await request(new URL('../api/v1/nodes', import.meta.url));
      const linked = (await response.json()).filter((node) => node.connected);
      const sessions = linked.flatMap((node) => node.sessions.map((name) => `${node.node_id}.${name}`));
      this.#controls.targets([...new Set(sessions)].sort());
    } catch (error) {
      this.#errors.show(asCallError(error));
    }
  }

  /** Show an error that occurred outside of a call. @param {unknown} error */
  report(error) {
    this.#errors.show(asCallError(error));
  }

  async #start() {
    this.#errors.clear();
    this.#controls.state('connecting', false);
    this.#status.state({state: 'connecting'});
    let started = false;
    try {
      if (!this.#fresh) this.#attach(await Call.start({target: this.#controls.target}));
      started = true;
      await this.#call.connect({audio: this.#controls.source(), record: true});
    } catch (error) {
      const reason = asCallError(error);
      if (reason.code === 'call_over') return;
      this.#errors.show(reason);
      if (!started || this.#call.state !== 'ended') this.#shown({state: 'idle'});
    }
  }

  #talk() {
    try {
      this.#call?.talk();
    } catch (error) {
      this.#errors.show(asCallError(error));
    }
  }

  #useRecording() {
    if (this.#controls.chooseRecording()) void this.#start();
  }

  #attach(call) {
    this.#call = call;
    this.#fresh = true;
    this.#transcript.clear();
    this.#status.usage();
    this.#tools.clear();
    this.#log.clear();
    this.#heard.hidden = true;
    const on = (type, listener) => call.addEventListener(type, ({detail}) => { if (call === this.#call) listener(detail); });
    on('state', (detail) => this.#shown(detail));
    on('facts', (facts) => this.#status.facts(facts));
    on('usage', (usage) => this.#status.usage(usage));
    on('transcript', (line) => this.#transcript.show(line));
    on('tool', (tool) => { this.#toolCard.hidden = false; this.#tools.show(tool); this.#fetchLater(); });
    on('event', (detail) => this.#log.add(detail));
    this.#status.record(null);
    const held = new HeldHead((head) => { if (call === this.#call) this.#status.record(head, call.id); });
    on('event', ({event}) => { if (event.type === 'log.head') void held.take(event); });
    on('error', (error) => this.#errors.show(error));
    on('talking', ({on}) => this.#controls.talking(on));
    on('ended', () => { void this.#keep(call); void held.takeNewest(call); });
    // arguments, results and all events are the operator's
    this.#log.element.hidden = !call.facts.details;
    // a caller may not be meant to know of tools: the card appears with the first one
    this.#toolCard.hidden = !call.facts.details;
    this.#controls.pushToTalk(Boolean(call.pushToTalk));
    this.#status.facts(call.facts);
    this.dispatchEvent(new CustomEvent('call', {detail: {call}, bubbles: true}));
  }

  #shown(detail) {
    const {state} = detail;
    this.dataset.state = state;
    this.#status.state(detail);
    this.#controls.state(state, this.#call?.muted ?? false);
    this.#words.disabled = this.#send.disabled = state !== 'live';
    if (state === 'live' || state === 'reconnecting') this.#meters.follow(this.#call);
    else this.#meters.stop();
    if (state === 'ended') this.#fresh = false;
  }

  async #type(event) {
    event.preventDefault();
    const text = this.#words.value.trim();
    if (!text) return;
    try {
      await this.#call.sendText(text);
      this.#words.value = '';
    } catch (error) {
      this.#errors.show(asCallError(error));
    }
  }

  /** Fetch arguments and results of executions after a change: the events do not contain them. */
  #fetchLater() {
    const call = this.#call;
    if (!call.facts.details) return;
    this.#fetching ??= setTimeout(async () => {
      this.#fetching = null;
      try {
        const workflow = await call.workflows();
        if (call !== this.#call) return;
        this.#tools.detail(workflow);
        this.dispatchEvent(new CustomEvent('workflows', {detail: workflow, bubbles: true}));
      } catch (error) {
        // the token expires with the session
        if (call.state !== 'ended') this.#errors.show(asCallError(error));
      }
    }, WORKFLOW_DELAY_MS);
  }

  async #keep(call) {
    const blob = await call.recording();
    if (!blob?.size || call !== this.#call) return;
    if (this.#kept) URL.revokeObjectURL(this.#kept);
    this.#kept = URL.createObjectURL(blob);
    const name = `${call.id}.${blob.type.includes('mp4') ? 'm4a' : 'webm'}`;
    const player = el('audio', {controls: true, src: this.#kept, 'aria-label': 'What was heard'});
    const link = el('a', {href: this.#kept, download: name});
    say(link, 'Save what was heard');
    this.#heard.replaceChildren(player, link);
    this.#heard.hidden = false;
  }
}

customElements.define('agentfield-call', CallPanel);
