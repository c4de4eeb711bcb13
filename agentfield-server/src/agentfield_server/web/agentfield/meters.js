// Two level meters: the last seconds of both voices as bars, drawn only during a call.

import {el} from './dom.js';

const BARS = 40;
const FRAME_MS = 50;

/** Draws `call.levels()`. */
export class Meters {
  #sides = {caller: meter('You'), agent: meter('Agent')};
  #call = null;
  #drawn = 0;
  element = el('div.af-meters', {}, this.#sides.caller.element, this.#sides.agent.element);

  /** @param {import('../agentfield.js').Call} call */
  follow(call) {
    const running = this.#call !== null;
    this.#call = call;
    if (!running) requestAnimationFrame((now) => this.#frame(now));
  }

  /** Draw silence; called also once after insertion, when the colours of the page are known. */
  stop() {
    this.#call = null;
    for (const side of Object.values(this.#sides)) {
      side.levels.fill(0);
      draw(side);
    }
  }

  #frame(now) {
    if (!this.#call) return;
    if (now - this.#drawn >= FRAME_MS) {
      this.#drawn = now;
      const levels = this.#call.levels();
      for (const [name, side] of Object.entries(this.#sides)) {
        side.levels.push(levels[name]);
        side.levels.shift();
        draw(side);
      }
    }
    requestAnimationFrame((next) => this.#frame(next));
  }
}

function meter(label) {
  const canvas = el('canvas', {width: 320, height: 48, 'aria-hidden': 'true'});
  const element = el('div.af-meter', {
    role: 'meter', 'aria-label': `Level: ${label}`, 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': 0,
  }, el('span.af-who', {}, label), canvas);
  return {element, canvas, levels: new Array(BARS).fill(0), value: 0};
}

function draw({element, canvas, levels}) {
  const pen = canvas.getContext('2d');
  const {width, height} = canvas;
  const step = width / BARS;
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = getComputedStyle(element).color;
  levels.forEach((level, index) => {
    const tall = Math.max(3, level * height);
    pen.globalAlpha = 0.25 + 0.75 * Math.min(1, level * 1.6);
    pen.beginPath();
    pen.roundRect(index * step + step * 0.22, (height - tall) / 2, step * 0.56, tall, 3);
    pen.fill();
  });
  element.setAttribute('aria-valuenow', String(Math.round(levels.at(-1) * 100)));
}
