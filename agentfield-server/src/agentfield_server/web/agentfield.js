// A voice call from a browser: `Call`, a client of the control plane's public REST interface only.
//
//   import {Call} from '/agentfield.js';
//   const call = await Call.start({target: 'voice-dictation.dictate'});
//   call.addEventListener('transcript', ({detail}) => console.log(detail.role, detail.text));
//   await call.connect({audio: 'microphone'});
//
// The provider's key never reaches the page: it holds a token of its own session, in memory only.

import {CallAudio} from './agentfield/audio.js';
import {asCallError, CallError, request} from './agentfield/http.js';
import {dial, noAudioPath} from './agentfield/peer.js';
import {CallReducer} from './agentfield/call_reducer.js';
import {EventStream} from './agentfield/stream.js';
import {TurnCall} from './agentfield/turn_call.js';

export {CallError, TurnCall};

const HERE = new URL('.', import.meta.url);
const OFFER_MS = 30_000;
const GOODBYE_MS = 5_000;

/**
 * @typedef {object} StartOptions
 * @property {string} target Session to start, `node_id.name`.
 * @property {string} [provider] Only the registered one is accepted.
 * @property {string} [transport]
 * @property {string} [model]
 * @property {string} [voice]
 * @property {string} [caller] Name of the caller; recorded.
 * @property {Record<string, unknown>} [metadata]
 * @property {boolean} [details] Show the session as an operator sees it; only an operator gets that. By default, if the
 *   address of the page ends with `#details`.
 *
 * @typedef {object} SessionFacts
 * @property {string} session_id
 * @property {string} target
 * @property {string} provider
 * @property {string} transport
 * @property {string} model
 * @property {string} [voice]
 * @property {string} [floor]
 * @property {string} [run_id]
 * @property {boolean} [details] Whether this page sees the session as an operator does.
 */

/**
 * One call. Events, all with `detail`:
 * - `state` {state: idle|connecting|live|reconnecting|ended, server, reason?, detail?}
 * - `turn` {phase: started|stopped|committed|discarded, id?, item, text?, textMissing?, why?}
 * - `transcript` {role: caller|agent, id, text, partial, final, turnId?, asked?, whole?, interrupted?, heardMs?, heardText?, stale?, missing?, …}
 * - `speech` {id, phase: asked|playout.started|playout.stopped|playout.cleared|ended, asked?, generated?, heardMs?, interrupted?, …}
 * - `tool` {executionId, kind, target, status, parentId, startedMs?, endedMs?, ms?, problem?} or a refusal {callId, target, status: 'refused', why}
 * - `usage` {cost: number|null, usage?: object, final: boolean}: US dollars so far, null where no price is known; counts by kind at the end
 * - `facts` SessionFacts as the control plane resolved them
 * - `event` {source: recorded|live|channel, event}: every received event, for a log
 * - `error` CallError as {code, message, hint, status}
 * - `ended` {reason, detail?}
 */
export class Call extends EventTarget {
  #token;
  #audio = null;
  #peer = null;
  #stream = null;
  #reducer = new CallReducer((type, detail) => this.#dispatch(type, detail));
  #server = 'created';
  #streaming = false;
  #muted = false;
  #reported = false;
  #source = null;
  #record = false;
  #retried = false;
  #dialling = new AbortController();
  #state = 'idle';
  #over = null;
  #ended;
  #leave = () => this.#goodbye();

  /** Plays the agent's audio; inserting it into the page is optional. @type {HTMLAudioElement} */
  output = new Audio();

  /** The configuration that the control plane resolved. @type {SessionFacts} */
  facts;

  /** Use `Call.start` or `Call.fromFragment`. @param {SessionFacts} facts @param {string} token */
  constructor(facts, token) {
    super();
    this.facts = facts;
    this.#token = token;
    this.#ended = new Promise((resolve) => { this.#over = resolve; });
    this.output.autoplay = true;
    addEventListener('pagehide', this.#leave);
  }

  /**
   * Start a session. Without a token this is for pages that the control plane itself serves on this machine.
   * @param {StartOptions} options
   * @returns {Promise<Call|TurnCall>} A TurnCall if the session takes recorded turns.
   */
  static async start(options) {
    const body = JSON.stringify({details: location.hash === '#details', ...options});
    const response = await request(new URL('api/v1/sessions', HERE), {method: 'POST', body});
    const {
      token, page_url: _page, offer_url: _offer, media_url: _media, turns_url: _turns, events_url: _events, ...facts
    } = await response.json();
    return callOf(facts, token);
  }

  /**
   * Return the call of a page address whose fragment contains a one-time code; the code is removed from the address.
   * @param {Location} [where]
   * @returns {Promise<Call|TurnCall|null>} null if the fragment has no code.
   */
  static async fromFragment(where = location) {
    const code = new URLSearchParams(where.hash.slice(1)).get('code');
    if (!code) return null;
    history.replaceState(history.state, '', where.pathname + where.search);
    const body = JSON.stringify({code});
    const response = await request(new URL('api/v1/sessions/exchange', HERE), {method: 'POST', body});
    const {token, ...facts} = await response.json();
    return callOf(facts, token);
  }

  /** @returns {string} */
  get id() {
    return this.facts.session_id;
  }

  /** @returns {'idle'|'connecting'|'live'|'reconnecting'|'ended'} */
  get state() {
    return this.#state;
  }

  /** @returns {boolean} */
  get muted() {
    return this.#muted;
  }

  /** Resolves with {reason, detail} when the call is over. @returns {Promise<{reason: string, detail?: string}>} */
  get ended() {
    return this.#ended;
  }

  /**
   * Make the call. May be called again: a second offer replaces the first call of the same session.
   * @param {{audio?: import('./agentfield/audio.js').AudioSource, constraints?: MediaTrackConstraints, record?: boolean}} [options]
   *   `audio`: the microphone (default), a stream, or a recording (URL or file) that is played into the call.
   *   `record`: record the agent's audio, for `recording()`.
   */
  async connect({audio = 'microphone', constraints, record = false} = {}) {
    if (this.#state === 'ended') throw new CallError('session_ended', 'The call is over.', 'start a new one', 410);
    this.#become('connecting');
    await this.#closeMedia();
    this.#record = record;
    this.#retried = false;
    try {
      this.#audio = new CallAudio();
      const fixed = audio === 'microphone' || audio instanceof MediaStream;
      this.#source = fixed ? null : await this.#audio.decode(audio);
      await this.#audio.open(audio, constraints);
      this.#audio.mute(this.#muted);
      this.#follow();
      await this.#dial();
    } catch (error) {
      throw await this.#failed(asCallError(error));
    }
    if (this.#source) {
      await this.#live();
      if (this.#state !== 'ended') void this.speak();
    }
  }

  /**
   * Play a recording into a call that was connected with one; without an argument, play that one again.
   * @param {Blob|string|URL} [recording]
   */
  async speak(recording) {
    const audio = this.#audio;
    if (!audio) throw new CallError('not_connected', 'There is no call to speak into.', 'connect first');
    await audio.speak(recording === undefined ? this.#source : await audio.decode(recording));
  }

  /** @param {boolean} on */
  mute(on) {
    this.#muted = on;
    this.#audio?.mute(on);
  }

  /** @param {string} text Text that counts as a turn of the caller. */
  async sendText(text) {
    await this.#request('input', {method: 'POST', body: JSON.stringify({text})});
  }

  /** End the call and wait until the control plane confirms that it ended. */
  async hangUp() {
    if (this.#state === 'ended') return;
    await this.#closeMedia();
    this.#follow();
    try {
      await this.#request('end', {method: 'POST', body: '{"reason":"caller_hangup"}'});
    } catch (error) {
      const known = asCallError(error);
      if (![401, 404, 409, 410].includes(known.status)) this.#report(known);
    }
    const late = new Promise((resolve) => { setTimeout(resolve, GOODBYE_MS); });
    await Promise.race([this.#ended, late]);
    this.#finish('caller_hangup', 'not confirmed by the control plane');
  }

  /** Levels of both sides, 0 to 1. @returns {{caller: number, agent: number}} */
  levels() {
    return this.#audio?.levels() ?? {caller: 0, agent: 0};
  }

  /** The recorded audio, complete once the call ended; null without `record`. @returns {Promise<Blob|null>} */
  async recording() {
    return this.#heard();
  }

  /** The executions of this session; with inputs and outputs if the page sees details. @returns {Promise<{run_id: string, executions: object[]}>} */
  async workflows() {
    const all = [];
    let page = {next: ''};
    do {
      const after = page.next ? `?after=${encodeURIComponent(page.next)}` : '';
      page = await (await this.#request(`workflows${after}`)).json();
      all.push(...page.executions);
    } while (page.next);
    return {...page, executions: all};
  }

  /**
   * The newest signed head of this session's log, with a proof that it continues one of `since` events.
   * @param {number} since
   * @returns {Promise<{head: object, since?: number, consistency?: string[]}>}
   */
  async head(since) {
    return (await this.#request(`head?since=${since}`)).json();
  }

  #heard = () => this.#audio?.recording() ?? Promise.resolve(null);

  #request(path, options = {}) {
    const signal = options.keepalive ? undefined : AbortSignal.timeout(OFFER_MS);
    return request(this.#address(path), {token: this.#token, signal, ...options});
  }

  #address(path) {
    return new URL(`api/v1/sessions/${encodeURIComponent(this.id)}/${path}`, HERE);
  }

  // ── events ────────────────────────────────────────────────────────────────

  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, {detail}));
  }

  #report(error) {
    this.#dispatch('error', error.toJSON());
  }

  #follow() {
    if (this.#stream) return;
    this.#stream = new EventStream({
      url: this.#address('events'),
      token: this.#token,
      onEvent: (event) => this.#onEvent(event),
      onOpen: () => { this.#streaming = true; this.#settle(); },
      onLost: () => { this.#streaming = false; this.#settle(); },
      onRefused: (error) => this.#refused(error),
    });
    void this.#stream.run();
  }

  #onEvent(event) {
    this.#dispatch('event', {source: typeof event.seq === 'number' ? 'recorded' : 'live', event});
    this.#reducer.apply(event);
    const body = event.body ?? {};
    switch (event.type) {
      case 'session.created':
        this.facts = {...this.facts, ...body, run_id: event.run_id};
        this.#dispatch('facts', this.facts);
        break;
      case 'provider.attached':
        this.facts = {...this.facts, model: body.model ?? this.facts.model, voice: body.voice ?? this.facts.voice, verified: body.verified};
        this.#dispatch('facts', this.facts);
        break;
      case 'session.state':
        this.#server = body.state;
        if (body.state === 'ended') this.#finish(body.reason ?? 'unknown', body.detail);
        else this.#settle();
        break;
      case 'handler.failed':
        this.#report(new CallError('handler_failed', body.message ?? 'The agent failed.', 'the agent\'s own log has the traceback'));
        break;
      case 'warning':
        if (event.body) this.#report(new CallError(body.code, body.message));
        break;
      case 'error':
        // other errors do not end the call: they are logged only
        if (event.fatal) this.#report(new CallError(event.code, event.message));
        break;
    }
  }

  #refused(error) {
    if (this.#state === 'ended') return;
    this.#report(error);
    this.#finish('unknown', error.message);
  }

  // ── media ─────────────────────────────────────────────────────────────────

  async #dial() {
    this.#dialling = new AbortController();
    const {signal} = this.#dialling;
    const peer = await dial({
      stream: this.#audio.stream,
      signal,
      onPeer: (peer) => { this.#peer = peer; },
      onTrack: (track) => this.#hear(track),
      onMessage: (data) => this.#channel(data),
      exchange: async (sdp) => {
        const options = {method: 'POST', body: sdp, type: 'application/sdp', accept: 'application/sdp'};
        return (await this.#request('offer', options)).text();
      },
    });
    peer.onconnectionstatechange = () => this.#moved(peer);
    this.#settle();
  }

  #hear(track) {
    const stream = new MediaStream([track]);
    this.output.srcObject = stream;
    this.output.play().catch(() => this.#report(new CallError(
      'playback_blocked', 'The browser does not play the agent\'s voice yet.', 'click anywhere in the page',
    )));
    this.#audio?.hear(stream, this.#record);
    const audio = this.#audio;
    this.#heard = () => audio.recording();
  }

  #channel(data) {
    let event = null;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    this.#dispatch('event', {source: 'channel', event});
  }

  #moved(peer) {
    if (peer !== this.#peer || this.#state === 'ended') return;
    if (peer.connectionState === 'failed') void this.#again();
    else this.#settle();
  }

  /** Reconnect after a network change: one new offer in the same session. */
  async #again() {
    if (this.#retried) {
      await this.#failed(new CallError('ice_failed', 'The audio path was lost.', 'check the network, then start again'));
      return;
    }
    this.#retried = true;
    this.#become('reconnecting');
    this.#peer?.close();
    try {
      await this.#dial();
    } catch (error) {
      await this.#failed(asCallError(error));
    }
  }

  async #closeMedia() {
    this.#dialling.abort(new CallError('call_over', 'The call ended before it was connected.', 'start a new one'));
    this.#peer?.close();
    this.#peer = null;
    const audio = this.#audio;
    this.#audio = null;
    this.output.srcObject = null;
    await audio?.close();
  }

  // ── state ─────────────────────────────────────────────────────────────────

  #settle() {
    if (!this.#peer || this.#state === 'idle' || this.#state === 'ended') return;
    const up = this.#peer.connectionState === 'connected' && this.#streaming;
    if (up && this.#server === 'live') this.#become('live');
    else if (this.#state === 'live') this.#become('reconnecting');
  }

  /** Resolves when the call is live or over. */
  #live() {
    return new Promise((resolve) => {
      const look = () => {
        if (this.#state !== 'live' && this.#state !== 'ended') return;
        this.removeEventListener('state', look);
        resolve();
      };
      this.addEventListener('state', look);
      look();
    });
  }

  #become(state, extra = {}) {
    if (this.#state === state || this.#state === 'ended') return;
    this.#state = state;
    this.#dispatch('state', {state, server: this.#server, ...extra});
  }

  /** Handle a failed connection; a new attempt is possible while the session lives. */
  async #failed(error) {
    if (error.code === 'call_over') return error;
    await this.#closeMedia();
    if (this.#state !== 'ended') {
      this.#report(error);
      if (error.code === 'ice_failed') await this.#giveUp(error);
      else if (error.status === 410 || error.status === 401) this.#finish('unknown', error.message);
      else this.#become('idle');
    }
    return error;
  }

  /** End the session after an ICE failure, so that its record has the reason. */
  async #giveUp({message}) {
    this.#reported = true;
    try {
      await this.#request('end', {method: 'POST', body: '{"reason":"ice_failed"}'});
    } catch {
      // the session may be over already, or the control plane unreachable
    }
    this.#finish('ice_failed', message);
  }

  #finish(reason, detail) {
    if (this.#state === 'ended') return;
    if (reason === 'ice_failed' && !this.#reported) this.#report(noAudioPath());
    this.#server = 'ended';
    this.#become('ended', {reason, detail});
    removeEventListener('pagehide', this.#leave);
    this.#stream?.close();
    this.#token = '';
    void this.#closeMedia();
    this.#over({reason, detail});
    this.#dispatch('ended', {reason, detail});
  }

  /** End the session when the page is closed; the keepalive request outlives the page. */
  #goodbye() {
    if (this.#state === 'ended') return;
    const body = '{"reason":"caller_hangup"}';
    this.#request('end', {method: 'POST', body, keepalive: true}).catch(() => {});
    this.#finish('caller_hangup', 'the page was closed');
  }
}

function callOf(facts, token) {
  return facts.transport === 'audio_turns' ? new TurnCall(facts, token) : new Call(facts, token);
}
