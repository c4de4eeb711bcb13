// Requests to the control plane, and `CallError`, the only error that the promises of these modules reject with.

/** An error with a stable `code`, and a `hint` that tells what to do about it. */
export class CallError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {string} [hint]
   * @param {number} [status] HTTP status, if there was one.
   */
  constructor(code, message, hint = '', status = 0) {
    super(message);
    this.name = 'CallError';
    this.code = code;
    this.hint = hint;
    this.status = status;
  }

  /** @returns {{code: string, message: string, hint: string, status: number}} */
  toJSON() {
    return {code: this.code, message: this.message, hint: this.hint, status: this.status};
  }
}

/**
 * Convert any thrown value to a CallError.
 * @param {unknown} error
 * @returns {CallError}
 */
export function asCallError(error) {
  if (error instanceof CallError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new CallError('page_error', message, 'reload the page; the browser console has the details');
}

/**
 * Send a request; return the response if it is successful, else throw a CallError.
 * @param {string|URL} url
 * @param {{method?: string, body?: string, type?: string, accept?: string, token?: string|null, keepalive?: boolean,
 *          headers?: Record<string, string>, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 */
export async function request(url, options = {}) {
  const {method = 'GET', body, type = 'application/json', accept = 'application/json', token, headers = {}, ...rest} = options;
  const sent = {accept, ...headers};
  if (body !== undefined) sent['content-type'] = type;
  if (token) sent.authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(url, {method, body, headers: sent, cache: 'no-store', credentials: 'omit', ...rest});
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    const late = error instanceof DOMException && error.name === 'TimeoutError';
    throw new CallError(
      late ? 'control_plane_timeout' : 'control_plane_unavailable',
      late ? 'The control plane did not answer in time.' : 'The control plane cannot be reached.',
      'see whether it still runs (af dev DIR, or af server), then start again',
    );
  }
  if (!response.ok) throw await problem(response);
  return response;
}

/** @param {Response} response @returns {Promise<CallError>} */
async function problem(response) {
  let document = {};
  try {
    document = await response.json();
  } catch {
    // not a problem document: use the status
  }
  const code = typeof document.code === 'string' ? document.code : `http_${response.status}`;
  const text = document.detail || document.title || `The control plane answered ${response.status} ${response.statusText}.`;
  return new CallError(code, String(text), String(document.hint || defaultHint(response.status)), response.status);
}

function defaultHint(status) {
  switch (status) {
    case 401:
    case 403:
      return 'this page may no longer use the session: start a new one';
    case 404:
    case 410:
      return 'the session is over: start a new one';
    default:
      return '';
  }
}
