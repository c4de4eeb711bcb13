// DOM elements without markup: the output of a model, a tool or a caller can only become text.

/**
 * An element with properties, attributes and children; strings become text nodes.
 * @param {string} tag `name` or `name.class.class`
 * @param {Record<string, unknown>} [set] `onclick` and the like are listeners, `dataset` is merged, the rest attributes.
 * @param {...(Node|string|null|undefined)} children
 * @returns {HTMLElement}
 */
export function el(tag, set = {}, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name);
  element.className = classes.join(' ');
  for (const [key, value] of Object.entries(set)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'dataset') Object.assign(element.dataset, value);
    else element.setAttribute(key, value === true ? '' : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set the text of an element only when it changes, so that selections and screen readers are left alone. */
export function say(element, text) {
  const words = text ?? '';
  if (element.textContent !== words) element.textContent = words;
}

/** `320 ms`, `1.2 s` */
export function duration(ms) {
  if (ms === undefined || ms === null) return '';
  return ms < 1000 ? `${Math.max(ms < 10 ? Math.round(ms * 10) / 10 : Math.round(ms), 0)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Readable JSON; a plain string is not quoted. */
export function pretty(value) {
  return typeof value === 'string' ? value : JSON.stringify(value, null, 2);
}

/** Keep a scrolling box at its end unless the reader scrolled away from it. */
export function follow(box, change) {
  const near = box.scrollHeight - box.scrollTop - box.clientHeight < 48;
  change();
  if (near) box.scrollTop = box.scrollHeight;
}

/** Copy text to the clipboard; without permission, select it instead. */
export async function copy(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(shown);
    return false;
  }
}
