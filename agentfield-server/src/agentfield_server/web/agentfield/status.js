// Status area of a call page: state and reason, provider and model, duration, and the command that shows the session later.

import {copy, el, say} from './dom.js';

const STATES = {idle: 'Ready', connecting: 'Connecting', live: 'Live', reconnecting: 'Reconnecting', ended: 'Ended'};
const REASONS = {
  caller_hangup: 'you hung up', never_connected: 'nobody connected', limit_duration: 'the longest duration was reached',
  limit_idle: 'nobody spoke', limit_turns: 'all turns were used', limit_tools: 'all tool calls were used',
  limit_cost: 'the cost limit was reached', handler_ended: 'the agent ended it', handler_failed: 'the agent failed',
  provider_expired: 'the provider\'s time was up', provider_error: 'the provider failed',
  mismatch: 'the provider answered with another model', operator: 'the operator ended it',
  control_plane_restart: 'the control plane restarted', node_lost: 'the agent went away',
  ice_failed: 'no audio path', unknown: 'the reason is not known here',
};

/** The status line of a call. */
export class StatusBar {
  #pill = el('span.af-pill', {role: 'status', dataset: {state: 'idle'}}, STATES.idle);
  #clock = el('time.af-clock', {hidden: true}, '0:00');
  #badge = el('span.af-badge', {hidden: true, title: 'provider × transport × model'});
  #cost = el('span.af-cost', {hidden: true, title: 'what the call cost so far, where prices are known'});
  #record = el('a.af-record', {hidden: true});
  #kept = '';
  #command = el('code.af-command');
  #button = el('button.af-small', {type: 'button', onclick: () => this.#copy()}, 'Copy');
  #line = el('div.af-session', {hidden: true}, this.#command, this.#button);
  #since = 0;
  #timer = 0;
  element = el('div.af-status', {}, this.#pill, this.#clock, this.#badge, this.#cost, this.#record, this.#line);

  /** @param {{state: string, reason?: string, detail?: string}} now */
  state({state, reason, detail}) {
    const why = state === 'ended' ? REASONS[reason] ?? reason : '';
    say(this.#pill, why ? `${STATES[state]}: ${why}` : STATES[state]);
    this.#pill.dataset.state = state;
    this.#pill.dataset.reason = reason ?? '';
    this.#pill.title = detail ?? '';
    if (state === 'live' && !this.#timer) this.#startClock();
    if (state === 'ended' || state === 'idle') this.#stopClock();
  }

  /** @param {{cost: number|null}} [usage] US dollars; null or undefined if no price is known. */
  usage({cost} = {cost: null}) {
    this.#cost.hidden = cost === null;
    say(this.#cost, cost === null ? '' : `$${cost.toFixed(4)}`);
  }

  /**
   * Show what is signed of the session's log; the newest head can be kept as a file, for `af verify --head`.
   * @param {{state: 'held'|'fork'|'unchecked', size: number, final: boolean, text: string}|null} head
   * @param {string} [id] Id of the session.
   */
  record(head, id = '') {
    URL.revokeObjectURL(this.#kept);
    this.#record.hidden = head === null;
    if (head === null) return;
    const {state, size, final, text} = head;
    this.#record.dataset.state = state;
    this.#kept = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
    this.#record.href = this.#kept;
    this.#record.download = `${id}-${state === 'fork' ? 'fork-' : ''}${size}.json`;
    this.#record.title = 'Keep this signed head of the log: it shows later whether the log was changed';
    say(this.#record, state === 'fork' ? 'The record of this call was rewritten'
      : `${size} events signed${final ? ', complete' : ''}`);
  }

  /** @param {import('../agentfield.js').SessionFacts} facts */
  facts({provider, transport, model, voice, floor, session_id: id, details}) {
    say(this.#badge, [provider, transport, model].filter(Boolean).join(' × '));
    this.#badge.hidden = false;
    this.#badge.title = [`provider ${provider}`, `transport ${transport}`, `model ${model}`, voice && `voice ${voice}`,
      floor && `${floor} floor`].filter(Boolean).join(', ');
    say(this.#command, `af session workflows ${id}`);
    this.#line.dataset.sessionId = id;
    this.#line.hidden = !details;
  }

  #startClock() {
    this.#since = Date.now();
    this.#clock.hidden = false;
    const tick = () => {
      const seconds = Math.floor((Date.now() - this.#since) / 1000);
      say(this.#clock, `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`);
    };
    tick();
    this.#timer = setInterval(tick, 500);
  }

  #stopClock() {
    clearInterval(this.#timer);
    this.#timer = 0;
  }

  async #copy() {
    say(this.#button, (await copy(this.#command.textContent, this.#command)) ? 'Copied' : 'Selected');
    setTimeout(() => say(this.#button, 'Copy'), 1500);
  }
}
