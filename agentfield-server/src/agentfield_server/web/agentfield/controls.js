// The controls of a call: target, voice, start, hang up, mute.

import {el, say} from './dom.js';
import {CallError} from './http.js';

const TALK_KEYS = new Set([' ', 'Enter']);
const HOLD = 'Hold to talk';
const IN_CALL = new Set(['connecting', 'live', 'reconnecting']);

/** Buttons and selects; native controls only, so that everything works by keyboard. */
export class Controls {
  #does;
  #state = 'idle';
  #muted = false;
  #recordings = [];
  #pushToTalk = false;
  #target = el('select', {'aria-label': 'Session to call', hidden: true});
  #voice = el('select', {'aria-label': 'Caller', onchange: () => this.#refresh()}, el('option', {value: 'microphone'}, 'Microphone'));
  #file = el('input', {type: 'file', accept: 'audio/*', 'aria-label': 'Audio file', hidden: true, onchange: () => this.#refresh()});
  #call = el('button.af-primary.af-call', {type: 'button', onclick: () => this.#toggle()});
  #mute = el('button.af-mute', {type: 'button', 'aria-pressed': 'false', onclick: () => this.#toggleMute()}, 'Mute');
  #again = el('button.af-again', {type: 'button', hidden: true, onclick: () => this.#does.again()}, 'Say it again');
  #talk = el('button.af-primary.af-push', {
    type: 'button', hidden: true, 'aria-pressed': 'false',
    onpointerdown: (event) => { if (event.button === 0) this.#press(event); },
    onpointerup: () => this.#release(),
    onpointercancel: () => this.#release(),
    onblur: () => this.#release(),
    onkeydown: (event) => { if (TALK_KEYS.has(event.key)) this.#press(event); },
    onkeyup: (event) => { if (TALK_KEYS.has(event.key)) this.#release(); },
  }, HOLD);
  element = el('div.af-controls', {},
    this.#call, this.#talk, this.#mute, this.#again, el('label.af-voice', {}, el('span', {}, 'Speak with'), this.#voice), this.#file, this.#target);

  /**
   * @param {{start: () => void, hangUp: () => void, mute: (on: boolean) => void, again: () => void,
   *          talk: () => void, send: () => void}} does
   */
  constructor(does) {
    this.#does = does;
  }

  /** The selected session. @returns {string} */
  get target() {
    return this.#target.value;
  }

  /**
   * @param {string[]} names
   * @param {boolean} [shown] Whether the visitor may choose the session.
   */
  targets(names, shown = true) {
    const options = names.map((value) => el('option', {value}, value));
    this.#target.replaceChildren(...(names.length ? options : [el('option', {value: ''}, 'no agent is connected')]));
    this.#target.hidden = !shown;
    this.#refresh();
  }

  /** @param {{label: string, url: string}[]} list */
  recordings(list) {
    this.#recordings = list;
    const options = list.map(({label}, index) => el('option', {value: `recording ${index}`}, `Recording: ${label}`));
    this.#voice.append(...options, el('option', {value: 'file'}, 'An audio file of mine'));
  }

  /** Select the first recording; return false if there is none. */
  chooseRecording() {
    if (!this.#recordings.length) return false;
    this.#voice.value = 'recording 0';
    this.#refresh();
    return true;
  }

  /** @returns {import('./audio.js').AudioSource} */
  source() {
    const [kind, index] = this.#voice.value.split(' ');
    if (kind === 'microphone') return 'microphone';
    if (kind === 'recording') return this.#recordings[Number(index)].url;
    const [file] = this.#file.files;
    if (!file) throw new CallError('no_file', 'No audio file was chosen.', 'choose one beside "Speak with"');
    return file;
  }

  /** @param {boolean} on Whether the caller holds a button to speak. */
  pushToTalk(on) {
    this.#pushToTalk = on;
    this.#refresh();
  }

  /** @param {boolean} on Whether the caller's voice is being recorded. */
  talking(on) {
    this.#talk.setAttribute('aria-pressed', String(on));
    say(this.#talk, on ? 'Release to send' : HOLD);
  }

  /** @param {string} state @param {boolean} muted */
  state(state, muted) {
    this.#state = state;
    this.#muted = muted;
    this.#refresh();
  }

  #refresh() {
    const inCall = IN_CALL.has(this.#state);
    say(this.#call, inCall ? 'Hang up' : this.#state === 'ended' ? 'Call again' : 'Start the call');
    this.#call.dataset.does = inCall ? 'hang-up' : 'start';
    this.#call.disabled = !inCall && !this.#target.value;
    this.#mute.disabled = !inCall;
    this.#mute.setAttribute('aria-pressed', String(this.#muted));
    say(this.#mute, this.#muted ? 'Unmute' : 'Mute');
    this.#voice.disabled = this.#target.disabled = this.#file.disabled = inCall;
    this.#talk.hidden = !this.#pushToTalk || this.#voice.value !== 'microphone';
    this.#talk.disabled = this.#state !== 'live';
    this.#again.hidden = this.#voice.value === 'microphone';
    this.#again.disabled = this.#state !== 'live';
    this.#file.hidden = this.#voice.value !== 'file';
  }

  #toggle() {
    if (!IN_CALL.has(this.#state)) this.#does.start();
    else this.#does.hangUp();
  }

  #press(event) {
    if (event.repeat || this.#talk.disabled) return;
    // capture the pointer beyond the button, and ignore key repeats
    if (event.type === 'pointerdown') this.#talk.setPointerCapture(event.pointerId);
    else event.preventDefault();
    this.#does.talk();
  }

  #release() {
    if (this.#talk.getAttribute('aria-pressed') === 'true') this.#does.send();
  }

  #toggleMute() {
    this.#muted = !this.#muted;
    this.#does.mute(this.#muted);
    this.#refresh();
  }
}
