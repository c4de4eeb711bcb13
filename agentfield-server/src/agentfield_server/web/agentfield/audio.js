// Audio of a call: the source of the caller's voice, level meters, and a recording of the agent's audio.

import {CallError, request} from './http.js';

const USE_A_RECORDING = 'choose a recording as the caller, or give this page a microphone and try again';

/**
 * The caller's audio: a microphone, a stream, or a recording that is played into the call.
 * @typedef {'microphone' | MediaStream | Blob | string | URL} AudioSource
 */

/** Audio input and output of one call; one AudioContext, closed with the call. */
export class CallAudio {
  #context = new AudioContext();
  #meters = new Map();
  #mouth = null;
  #owned = [];
  #recorder = null;
  #chunks = [];
  #recorded = null;

  /** The sent stream. @type {MediaStream|null} */
  stream = null;

  /**
   * @param {AudioSource} source
   * @param {MediaTrackConstraints} [constraints] Of the microphone.
   */
  async open(source, constraints) {
    if (source === 'microphone') {
      this.stream = await microphone(constraints);
      this.#owned = this.stream.getTracks();
    } else if (source instanceof MediaStream) {
      this.stream = source;
    } else {
      this.#mouth = this.#context.createMediaStreamDestination();
      this.stream = this.#mouth.stream;
      this.#owned = this.stream.getTracks();
    }
    if (!this.stream.getAudioTracks().length) {
      throw new CallError('no_audio_track', 'The stream that was given has no audio track.', USE_A_RECORDING);
    }
    await this.#context.resume();
    this.#meter('caller', this.stream);
  }

  /** Whether recordings can be played into this call. */
  get canSpeak() {
    return this.#mouth !== null;
  }

  /**
   * Decode a recording, so that a bad one is rejected before the call is made.
   * @param {Blob|string|URL} source
   * @returns {Promise<AudioBuffer>}
   */
  async decode(source) {
    const bytes = source instanceof Blob ? await source.arrayBuffer() : await (await fetched(source)).arrayBuffer();
    try {
      return await this.#context.decodeAudioData(bytes);
    } catch {
      throw new CallError(
        'bad_recording', 'The recording is no audio that this browser can read.', 'use a WAV, MP3, Ogg or WebM file',
      );
    }
  }

  /**
   * Play a recording into the call; resolves when it has been played.
   * @param {AudioBuffer} buffer
   */
  speak(buffer) {
    if (!this.#mouth) throw new CallError('not_a_recording', 'This call speaks with a microphone.', 'start a call with a recording');
    const player = this.#context.createBufferSource();
    player.buffer = buffer;
    player.connect(this.#mouth);
    return new Promise((resolve) => {
      player.onended = resolve;
      player.start();
    });
  }

  /** @param {boolean} on */
  mute(on) {
    for (const track of this.stream?.getAudioTracks() ?? []) track.enabled = !on;
  }

  /**
   * Attach the agent's stream.
   * @param {MediaStream} stream
   * @param {boolean} record
   */
  hear(stream, record) {
    this.#meter('agent', stream);
    if (!record || typeof MediaRecorder === 'undefined') return;
    this.#stopRecorder();
    const recorder = new MediaRecorder(stream);
    recorder.ondataavailable = ({data}) => { if (data.size) this.#chunks.push(data); };
    this.#recorded = new Promise((resolve) => {
      recorder.onstop = () => resolve(new Blob(this.#chunks, {type: recorder.mimeType}));
    });
    recorder.start(500);
    this.#recorder = recorder;
  }

  /** The recorded audio, once the call is over. @returns {Promise<Blob|null>} */
  recording() {
    return this.#recorded ?? Promise.resolve(null);
  }

  /** Current levels of both sides, 0 (−60 dBFS and below) to 1. @returns {{caller: number, agent: number}} */
  levels() {
    return {caller: this.#level('caller'), agent: this.#level('agent')};
  }

  async close() {
    this.#stopRecorder();
    for (const track of this.#owned) track.stop();
    this.#meters.clear();
    if (this.#context.state !== 'closed') await this.#context.close();
  }

  #stopRecorder() {
    if (this.#recorder && this.#recorder.state !== 'inactive') this.#recorder.stop();
    this.#recorder = null;
    this.#chunks = [...this.#chunks];
  }

  #meter(side, stream) {
    const analyser = this.#context.createAnalyser();
    analyser.fftSize = 1024;
    const source = this.#context.createMediaStreamSource(stream);
    source.connect(analyser);
    // keep a reference to the source: an unreferenced one may be garbage-collected, which stops the analyser
    this.#meters.set(side, {source, analyser, samples: new Float32Array(analyser.fftSize)});
  }

  #level(side) {
    const meter = this.#meters.get(side);
    if (!meter) return 0;
    meter.analyser.getFloatTimeDomainData(meter.samples);
    let sum = 0;
    for (const sample of meter.samples) sum += sample * sample;
    const dbfs = 10 * Math.log10(sum / meter.samples.length + 1e-12);
    return Math.max(0, Math.min(1, (dbfs + 60) / 60));
  }
}

async function fetched(source) {
  try {
    return await request(source, {accept: 'audio/*'});
  } catch {
    throw new CallError('bad_recording', `The recording ${source} could not be loaded.`, 'check its address');
  }
}

async function microphone(constraints) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new CallError(
      'insecure_page', 'Browsers give a microphone only to pages of this machine or over https.',
      'open the page as http://127.0.0.1 or https, or choose a recording as the caller',
    );
  }
  const audio = constraints ?? {echoCancellation: true, noiseSuppression: true, autoGainControl: true};
  try {
    return await navigator.mediaDevices.getUserMedia({audio});
  } catch (error) {
    throw microphoneError(error);
  }
}

function microphoneError(error) {
  switch (error?.name) {
    case 'NotAllowedError':
    case 'SecurityError':
      return new CallError('microphone_denied', 'The browser did not give this page a microphone.', USE_A_RECORDING);
    case 'NotFoundError':
    case 'OverconstrainedError':
      return new CallError('no_microphone', 'There is no microphone.', USE_A_RECORDING);
    case 'NotReadableError':
    case 'AbortError':
      return new CallError('microphone_busy', 'The microphone is there, but it cannot be used now.', USE_A_RECORDING);
    default:
      return new CallError('microphone_failed', `The microphone could not be opened: ${error?.message ?? error}.`, USE_A_RECORDING);
  }
}
