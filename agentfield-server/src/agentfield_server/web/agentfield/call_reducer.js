// Reducer of a session's events: turns, transcript lines, speeches and tool calls.

const CALLS = new Set(['tool', 'call']);

function decided({status, by, note}) {
  return (status === 'changes_requested' ? 'sent back' : status) + (by ? ` by ${by}` : '') + (note ? `: ${note}` : '');
}

/** Holds the state of a call and reports each change to `emit(type, detail)`. It uses no clock, no network and no DOM. */
export class CallReducer {
  #emit;
  #seq = 0;
  #lines = new Map();
  #replies = new Map();
  #executions = new Map();
  #cost = null;

  /** @param {(type: string, detail: object) => void} emit */
  constructor(emit) {
    this.#emit = emit;
  }

  /** Executions of kind tool and call, in the order of their creation. */
  get calls() {
    return [...this.#executions.values()];
  }

  /**
   * Apply one event.
   * @param {object} event A recorded event (`seq`, `type`, `at`, `execution_id`, `body`) or a live one (`type` and its fields).
   */
  apply(event) {
    if (typeof event.seq === 'number') {
      if (event.seq <= this.#seq) return;
      this.#seq = event.seq;
      this.#recorded(event, event.body ?? {});
    } else {
      this.#live(event);
    }
  }

  #recorded(event, body) {
    switch (event.type) {
      case 'execution.created':
      case 'execution.started':
      case 'execution.ended':
        this.#execution(event, body);
        break;
      case 'execution.retrying':
        this.#noted(event, {status: 'queued'}, `attempt ${body.attempt} did not succeed: ${body.problem?.detail ?? body.status}`);
        break;
      case 'execution.returned':
        this.#noted(event, {status: 'queued'}, `attempt ${body.attempt} did not begin${body.reason ? `: ${body.reason}` : ''}`);
        break;
      case 'approval.requested':
        this.#noted(event, {status: 'waiting', waitsFor: body.title ?? 'a decision'}, `asked: ${body.title ?? 'somebody'}`);
        break;
      case 'approval.decided':
        this.#noted(event, {status: 'queued', waitsFor: undefined}, decided(body));
        break;
      case 'tool.requested':
        this.#emit('tool', {callId: body.call_id, target: body.target, status: 'requested', turnId: body.turn_id});
        break;
      case 'tool.refused':
        this.#emit('tool', {callId: body.call_id, target: body.name, status: 'refused', why: body.why});
        break;
      case 'tool.answered':
        this.#answered(body);
        break;
      case 'turn.committed':
        this.#committed(body);
        break;
      case 'turn.discarded':
        this.#discarded(body);
        break;
      case 'turn.transcript': // the only recorded ones are late
        this.#line('caller', body.item, {text: body.text, missing: '', final: true});
        break;
      case 'backchannel':
        this.#line('caller', body.item, {backchannel: true});
        break;
      case 'dtmf':
        this.#line('caller', `key ${event.seq}`, {digit: body.digit, text: body.digit, final: true});
        break;
      case 'usage':
        if (typeof body.cost === 'number') this.#spent((this.#cost ?? 0) + body.cost);
        break;
      case 'session.usage':
        this.#spent(body.cost ?? null, body.usage);
        break;
      case 'speech.started':
        this.#speechStarted(body);
        break;
      case 'speech.ended':
        this.#speechEnded(body);
        break;
    }
  }

  #live(event) {
    switch (event.type) {
      case 'turn.started':
        this.#emit('turn', {phase: 'started', item: event.item});
        this.#line('caller', event.item, {});
        break;
      case 'turn.stopped':
        this.#emit('turn', {phase: 'stopped', item: event.item});
        break;
      case 'turn.transcript':
        // a partial transcript of a turn is the whole text so far
        this.#line('caller', event.item, event.failed
          ? {missing: event.failed, final: true} : {text: event.text, final: event.final || undefined});
        break;
      case 'reply.started':
        this.#line('agent', this.#replyLine(event), {turnId: event.turn_id});
        break;
      case 'reply.transcript': {
        const id = this.#replyLine(event);
        // a reply's transcript comes as deltas, then as the whole text; it is final once the heard part is known
        const before = event.final ? '' : this.#lines.get(id)?.text ?? '';
        if (!this.#lines.get(id)?.final) this.#line('agent', id, {text: before + event.text});
        break;
      }
      case 'interrupted':
        this.#line('agent', this.#replyLine(event), {interrupted: true, heardMs: event.heard_ms});
        break;
      case 'playout.started':
      case 'playout.stopped':
      case 'playout.cleared':
        this.#emit('speech', {id: this.#replyLine(event), phase: event.type});
        break;
    }
  }

  #spent(cost, usage) {
    this.#cost = cost;
    this.#emit('usage', {cost, usage, final: usage !== undefined});
  }

  /** The transcript line of a reply: the line of its speech if that is known; the same one every time. */
  #replyLine({reply, speech_id: speech}) {
    const known = this.#replies.get(reply) ?? this.#replies.get(speech) ?? speech ?? reply;
    if (reply) this.#replies.set(reply, known);
    if (speech) this.#replies.set(speech, known);
    return known;
  }

  #line(role, id, change) {
    if (!id) return;
    const before = this.#lines.get(id) ?? {role, id, text: '', final: false};
    const now = {...before};
    for (const [name, value] of Object.entries(change)) if (value !== undefined && value !== null) now[name] = value;
    this.#lines.set(id, now);
    this.#emit('transcript', {...now, partial: !now.final});
  }

  #committed(body) {
    this.#emit('turn', {
      phase: 'committed', id: body.turn_id, item: body.item, text: body.text, textMissing: body.text_missing,
    });
    this.#line('caller', body.item ?? body.turn_id, {
      turnId: body.turn_id, text: body.text, missing: body.text_missing,
      final: body.text !== null && body.text !== undefined || Boolean(body.text_missing) || undefined,
    });
  }

  #discarded(body) {
    this.#emit('turn', {phase: 'discarded', item: body.item, why: body.why});
    this.#line('caller', body.item, {discarded: body.why, final: true});
  }

  #speechStarted(body) {
    const id = this.#replyLine({speech_id: body.speech_id});
    this.#emit('speech', {id, phase: 'asked', kind: body.kind, asked: body.asked, turnId: body.turn_id});
    const whole = body.interruptible === false || undefined;
    this.#line('agent', id, {kind: body.kind, asked: body.asked, turnId: body.turn_id, whole});
  }

  #speechEnded(body) {
    const id = this.#replyLine({speech_id: body.speech_id});
    const marks = {
      asked: body.asked, generated: body.generated, verbatim: body.verbatim, interrupted: Boolean(body.interrupted),
      stale: Boolean(body.stale), failed: body.failed || undefined, heardMs: body.heard_ms, heardText: body.heard_text,
      heardMethod: body.heard_method, remaining: body.remaining, toolCalls: body.tool_calls,
    };
    this.#emit('speech', {id, phase: 'ended', ...marks});
    this.#line('agent', id, {...marks, text: body.generated ?? undefined, final: true});
  }

  #execution(event, body) {
    const id = event.execution_id;
    const before = this.#executions.get(id);
    if (!before && !CALLS.has(body.kind)) return;
    const ms = event.at * 1000;
    const now = before ?? {executionId: id, kind: body.kind, target: body.target, parentId: body.parent_id, createdMs: ms};
    if (event.type === 'execution.created') now.status = body.status ?? 'queued';
    if (event.type === 'execution.started') {
      const startedMs = body.entered_at === undefined ? ms : body.entered_at * 1000;
      Object.assign(now, {status: 'running', startedMs, attempt: body.attempt});
    }
    if (event.type === 'execution.ended') Object.assign(now, {status: body.status, endedMs: ms, problem: body.problem});
    this.#executions.set(id, now);
    this.#tool(now);
  }

  /** Add a progress note to an execution; `notes` has all of them, in order. */
  #noted(event, change, note) {
    const execution = this.#executions.get(event.execution_id);
    if (!execution) return;
    Object.assign(execution, change, {notes: [...(execution.notes ?? []), note]});
    this.#tool(execution);
  }

  #answered(body) {
    const execution = this.#executions.get(body.execution_id);
    if (!execution) return;
    Object.assign(execution, {callId: body.call_id, pending: Boolean(body.pending)});
    this.#tool(execution);
  }

  #tool(execution) {
    const {startedMs, createdMs, endedMs} = execution;
    this.#emit('tool', {...execution, ms: endedMs === undefined ? undefined : endedMs - (startedMs ?? createdMs)});
  }
}
