// A call of recorded turns: `TurnCall`, push to talk. It has the events and methods of `Call`, plus `talk()` and `send()`.
//
//   const call = await Call.start({target: 'kiosk.counter'});  // a TurnCall if the transport is audio_turns
//   await call.connect();
//   button.onpointerdown = () => call.talk();
//   button.onpointerup = () => call.send();

import {CallAudio} from './audio.js';
import {asCallError, CallError, request} from './http.js';
import {CallReducer} from './call_reducer.js';
import {EventParser, EventStream} from './stream.js';
import {TurnPlayer, TurnRecorder} from './turn_audio.js';

const ROOT = new URL('..', import.meta.url);
const REQUEST_MS = 30_000;
const GOODBYE_MS = 5_000;
const ATTEMPTS = 3;
const AGAIN_MS = 500;

/**
 * Events of `Call`, plus, with `detail`:
 * - `talking` {on: boolean} the microphone is being recorded
 * - `answer` {item: string|null, on: boolean} a turn is being answered
 */
export class TurnCall extends EventTarget {
  #token;
  #audio = null;
  #player = null;
  #recorder = new TurnRecorder();
  #stream = null;
  #reducer = new CallReducer((type, detail) => this.#dispatch(type, detail));
  #server = 'created';
  #streaming = false;
  #muted = false;
  #source = null;
  #answer = null;
  #sources = new Map();
  // speeches that must be heard to their end, and their replies
  #protected = new Set();
  #playing = null;
  #state = 'idle';
  #over = null;
  #ended;
  #heard = () => Promise.resolve(null);
  #leave = () => this.#goodbye();

  /** The configuration that the control plane resolved. @type {import('../agentfield.js').SessionFacts} */
  facts;

  /** Use `Call.start` or `Call.fromFragment`. @param {import('../agentfield.js').SessionFacts} facts @param {string} token */
  constructor(facts, token) {
    super();
    this.facts = facts;
    this.#token = token;
    this.#ended = new Promise((resolve) => { this.#over = resolve; });
    addEventListener('pagehide', this.#leave);
  }

  /** @returns {string} */
  get id() {
    return this.facts.session_id;
  }

  /** Whether the caller presses a button to speak. @returns {boolean} */
  get pushToTalk() {
    return true;
  }

  /** @returns {'idle'|'connecting'|'live'|'reconnecting'|'ended'} */
  get state() {
    return this.#state;
  }

  /** @returns {boolean} */
  get muted() {
    return this.#muted;
  }

  /** Whether the microphone is being recorded. @returns {boolean} */
  get talking() {
    return this.#recorder.recording;
  }

  /** Resolves with {reason, detail} when the call is over. @returns {Promise<{reason: string, detail?: string}>} */
  get ended() {
    return this.#ended;
  }

  /**
   * Open the call; resolves when it is live. The agent's audio is played from then on.
   * @param {{audio?: import('./audio.js').AudioSource, constraints?: MediaTrackConstraints, record?: boolean}} [options]
   *   `audio`: the microphone (default), a stream, or a recording (URL or file) that is sent as the first turn.
   */
  async connect({audio = 'microphone', constraints, record = false} = {}) {
    if (this.#state === 'ended') throw new CallError('session_ended', 'The call is over.', 'start a new one', 410);
    this.#become('connecting');
    await this.#closeMedia();
    try {
      this.#audio = new CallAudio();
      this.#player = new TurnPlayer();
      await this.#player.resume();
      const own = this.#audio;
      own.hear(this.#player.stream, record);
      this.#heard = () => own.recording();
      this.#source = audio === 'microphone' || audio instanceof MediaStream ? null : audio;
      if (!this.#source) {
        await own.open(audio, constraints);
        own.mute(this.#muted);
      }
    } catch (error) {
      throw await this.#failed(asCallError(error));
    }
    this.#follow();
    this.#settle();
    await this.#live();
    if (this.#source && this.#state !== 'ended') this.speak().catch(() => {}); // reported as an `error` event
  }

  /** Start to record a turn; playback of the agent stops. */
  talk() {
    if (!this.#audio?.stream) throw new CallError('not_connected', 'There is no microphone to speak into.', 'connect with one first');
    if (this.talking) return;
    this.#interrupt();
    this.#recorder.start(this.#audio.stream);
    this.#dispatch('talking', {on: true});
  }

  /** End the recording and send it; resolves when the turn was answered. */
  async send() {
    if (!this.talking) return;
    const recorded = this.#recorder.stop();
    this.#dispatch('talking', {on: false});
    await this.#post(await recorded);
  }

  /**
   * Send a recording as a turn; without an argument, the one that the call was connected with.
   * @param {Blob|string|URL} [recording]
   */
  async speak(recording = this.#source) {
    if (!recording) throw new CallError('no_recording', 'There is no recording to send.', 'use talk() and send()');
    this.#interrupt();
    await this.#post(recording instanceof Blob ? recording : await (await request(recording, {accept: 'audio/*'})).blob());
  }

  /** @param {boolean} on */
  mute(on) {
    this.#muted = on;
    this.#audio?.mute(on);
  }

  /** @param {string} text Text that counts as a turn of the caller. */
  async sendText(text) {
    this.#interrupt();
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

  /** The executions of this session with inputs and outputs. @returns {Promise<{run_id: string, executions: object[]}>} */
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

  #request(path, options = {}) {
    const signal = options.keepalive ? undefined : AbortSignal.timeout(REQUEST_MS);
    return request(this.#address(path), {token: this.#token, signal, ...options});
  }

  #address(path) {
    return new URL(`api/v1/sessions/${encodeURIComponent(this.id)}/${path}`, ROOT);
  }

  // ── turns ─────────────────────────────────────────────────────────────────

  /** Barge-in: stop the playback of the current reply, unless it is one that must be heard to its end. */
  #interrupt() {
    if (this.#protected.has(this.#playing) && this.#player?.left) return;
    this.#answer?.abort();
    this.#answer = null;
    this.#player?.clear();
    for (const reply of this.#sources.keys()) this.#sources.set(reply, 'over');
  }

  /** Send a turn and play its answer; after a lost connection, request it again and continue at the same position. */
  async #post(recording) {
    const turn = {abort: new AbortController(), key: newKey(), pieces: 0};
    this.#answer = turn.abort;
    this.#dispatch('answer', {item: null, on: true});
    try {
      for (let attempt = 1; ; attempt += 1) {
        try {
          await this.#exchange(recording, turn);
          return;
        } catch (error) {
          if (turn.abort.signal.aborted || this.#state === 'ended') return;
          const known = asCallError(error);
          if (known.code !== 'control_plane_unavailable' || attempt >= ATTEMPTS || !turn.key) throw known;
        }
        await new Promise((resolve) => { setTimeout(resolve, AGAIN_MS * attempt); });
      }
    } catch (error) {
      this.#report(error);
      throw error;
    } finally {
      if (this.#answer === turn.abort) {
        this.#answer = null;
        this.#dispatch('answer', {item: null, on: false});
      }
    }
  }

  async #exchange(recording, turn) {
    const {key, abort: {signal}} = turn;
    const headers = key ? {'idempotency-key': key} : {};
    const options = {method: 'POST', body: recording, type: recording.type || 'audio/wav', accept: 'text/event-stream'};
    const response = await request(this.#address('turns'), {...options, token: this.#token, headers, signal});
    const parser = new EventParser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let piece = 0;
    let over = false;
    for (;;) {
      const {done, value} = await lost(reader.read(), signal);
      if (done) break;
      for (const {type, data} of parser.push(value)) {
        const event = JSON.parse(data);
        if (type === 'turn') this.#dispatch('answer', {item: event.item, on: true});
        if (type === 'problem') throw new CallError(event.code, event.detail ?? event.title, event.hint, event.status);
        if (event.type === 'reply.audio') {
          piece += 1;
          // a repeated answer starts from its beginning
          if (piece <= turn.pieces) continue;
          turn.pieces = piece;
        }
        over ||= type === 'execution.ended' || type === 'turn.discarded' || type === 'session.state';
        // all other events arrive in order on the session's event stream
        this.#sound(event, 'turn');
      }
    }
    if (!over) throw broken();
  }

  /** Play or stop audio; each reply is played from the source that delivered it first. */
  #sound(event, source) {
    const {type, reply, body} = event;
    if (type === 'speech.started' && body?.interruptible === false) {
      this.#protected.add(body.speech_id);
    } else if (type === 'reply.started' && this.#protected.has(event.speech_id)) {
      this.#protected.add(reply);
    } else if (type === 'reply.audio') {
      if (!this.#sources.has(reply)) this.#sources.set(reply, this.talking && !this.#protected.has(reply) ? 'over' : source);
      if (this.#sources.get(reply) !== source) return;
      this.#playing = reply;
      this.#player?.play(event.data, event.rate);
    } else if ((type === 'playout.cleared' || type === 'interrupted') && this.#sources.get(reply) !== 'over') {
      if (this.#sources.has(reply)) this.#player?.clear();
      this.#sources.set(reply, 'over');
    }
  }

  // ── events ────────────────────────────────────────────────────────────────

  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, {detail}));
  }

  #report(error) {
    this.#dispatch('error', asCallError(error).toJSON());
  }

  #follow() {
    if (this.#stream) return;
    this.#stream = new EventStream({
      url: this.#address('events?audio=1'),
      token: this.#token,
      onEvent: (event) => this.#onEvent(event),
      onOpen: () => { this.#streaming = true; this.#settle(); },
      onLost: () => { this.#streaming = false; this.#settle(); },
      onRefused: (error) => this.#refused(error),
    });
    void this.#stream.run();
  }

  #onEvent(event) {
    this.#sound(event, 'stream');
    if (event.type === 'reply.audio') return;
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

  // ── state ─────────────────────────────────────────────────────────────────

  #settle() {
    if (!this.#player || this.#state === 'idle' || this.#state === 'ended') return;
    if (this.#streaming && this.#server === 'live') this.#become('live');
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

  async #failed(error) {
    await this.#closeMedia();
    if (this.#state !== 'ended') {
      this.#report(error);
      this.#become('idle');
    }
    return error;
  }

  async #closeMedia() {
    this.#answer?.abort();
    this.#answer = null;
    if (this.talking) void this.#recorder.stop();
    const [audio, player] = [this.#audio, this.#player];
    this.#audio = this.#player = null;
    await audio?.close();
    await player?.close();
  }

  #finish(reason, detail) {
    if (this.#state === 'ended') return;
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

function broken() {
  return new CallError('control_plane_unavailable', 'The answer broke off.', 'see whether the control plane still runs, then try again');
}

/** Tell a read that failed with the connection from one that was aborted. */
async function lost(read, signal) {
  try {
    return await read;
  } catch (error) {
    throw signal.aborted ? error : broken();
  }
}

/** Create an Idempotency-Key; available in secure contexts only. */
function newKey() {
  return typeof crypto.randomUUID === 'function' ? crypto.randomUUID() : '';
}
