// Audio of recorded turns: records the microphone, and plays sample chunks as they arrive.

import {CallError} from './http.js';

// the first chunk is delayed a little, so that the next one arrives in time
const LEAD_S = 0.06;
const TYPES = ['audio/webm;codecs=opus', 'audio/ogg;codecs=opus', 'audio/mp4'];

/** Records one turn at a time from a stream. */
export class TurnRecorder {
  #recorder = null;
  #recorded = null;

  /** @returns {boolean} */
  get recording() {
    return this.#recorder !== null;
  }

  /** @param {MediaStream} stream */
  start(stream) {
    if (typeof MediaRecorder === 'undefined') {
      throw new CallError('no_recorder', 'This browser cannot record.', 'use a current browser, or choose a recording as the caller');
    }
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    const recorder = new MediaRecorder(stream, mimeType ? {mimeType} : {});
    const chunks = [];
    recorder.ondataavailable = ({data}) => { if (data.size) chunks.push(data); };
    this.#recorded = new Promise((resolve, reject) => {
      recorder.onstop = () => resolve(new Blob(chunks, {type: recorder.mimeType}));
      recorder.onerror = () => reject(new CallError('recording_failed', 'The microphone could not be recorded.', 'try again'));
    });
    this.#recorded.catch(() => {}); // the caller of `stop` gets the rejection
    recorder.start();
    this.#recorder = recorder;
  }

  /** End the recording. @returns {Promise<Blob>} */
  stop() {
    const recorder = this.#recorder;
    this.#recorder = null;
    if (recorder && recorder.state !== 'inactive') recorder.stop();
    return this.#recorded;
  }
}

/** Plays chunks of 16-bit samples in sequence; `clear` discards them at once. */
export class TurnPlayer {
  #context = new AudioContext();
  #out = this.#context.createGain();
  #tap = this.#context.createMediaStreamDestination();
  #playing = new Set();
  #until = 0;

  constructor() {
    this.#out.connect(this.#context.destination);
    this.#out.connect(this.#tap);
  }

  /** The played audio, for meters and recordings. @returns {MediaStream} */
  get stream() {
    return this.#tap.stream;
  }

  /** Seconds of audio not yet played. @returns {number} */
  get left() {
    return Math.max(0, this.#until - this.#context.currentTime);
  }

  /** Resume the AudioContext; some browsers allow it only in the handler of a user gesture. */
  async resume() {
    await this.#context.resume();
  }

  /**
   * @param {string} data Base64 of signed 16-bit little-endian samples.
   * @param {number} rate Samples per second.
   */
  play(data, rate) {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const count = Math.floor(bytes.length / 2);
    if (!count) return;
    const buffer = this.#context.createBuffer(1, count, rate);
    const samples = buffer.getChannelData(0);
    for (let index = 0; index < count; index += 1) samples[index] = view.getInt16(index * 2, true) / 32768;
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#out);
    const at = Math.max(this.#until, this.#context.currentTime + (this.left ? 0 : LEAD_S));
    this.#until = at + buffer.duration;
    this.#playing.add(source);
    source.onended = () => this.#playing.delete(source);
    source.start(at);
  }

  /** Stop at once and discard the rest. */
  clear() {
    for (const source of this.#playing) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
    this.#playing.clear();
    this.#until = 0;
  }

  async close() {
    this.clear();
    if (this.#context.state !== 'closed') await this.#context.close();
  }
}
