// The timeline of tool calls: target, arguments, duration and execution of each call.

import {duration, el, follow, pretty, say} from './dom.js';

const RUNNING = new Set(['queued', 'running', 'waiting']);

function waits({waitsFor, pending}) {
  return [waitsFor && 'somebody has to decide', pending && 'the model was told to wait'].filter(Boolean);
}

/** Renders `tool` events of a call, with the inputs and outputs from its workflow. */
export class ToolTimeline {
  #rows = new Map();
  #empty = el('p.af-empty', {}, 'No tool has been called yet.');
  #list = el('ol.af-tools', {'aria-label': 'Tool calls'});
  element = el('div.af-scroll.af-toolbox', {tabindex: '0', role: 'region', 'aria-label': 'Tool calls'}, this.#empty, this.#list);

  clear() {
    this.#rows.clear();
    this.#list.replaceChildren();
    this.#empty.hidden = false;
  }

  /** @param {object} tool Detail of a `tool` event. */
  show(tool) {
    const id = tool.executionId ?? (tool.status === 'refused' ? `refused ${tool.callId}` : null);
    if (!id) return;
    follow(this.element, () => {
      this.#empty.hidden = true;
      this.#fill(this.#rows.get(id) ?? this.#add(id, tool), tool);
    });
  }

  /** @param {{executions: object[]}} workflow Result of `call.workflows()`. */
  detail({executions}) {
    follow(this.element, () => {
      for (const execution of executions) {
        const row = this.#rows.get(execution.id);
        if (!row) continue;
        this.#data(row, 'Arguments', execution.input);
        this.#data(row, execution.problem ? 'Problem' : 'Result', execution.problem ?? execution.output);
      }
    });
  }

  #add(id, tool) {
    const row = {
      status: el('span.af-tool-status'),
      name: el('code.af-tool-name'),
      ms: el('span.af-tool-ms'),
      id: el('code.af-tool-id', {title: 'execution'}),
      notes: el('p.af-tool-notes', {hidden: true}),
      why: el('p.af-tool-why', {hidden: true}),
      data: el('div.af-tool-data'),
      depth: (this.#rows.get(tool.parentId)?.depth ?? -1) + 1,
      blocks: new Map(),
    };
    row.element = el('li.af-tool', {dataset: {executionId: tool.executionId ?? '', depth: Math.min(row.depth, 4)}},
      el('div.af-tool-head', {}, row.name, row.ms), el('div.af-tool-sub', {}, row.status, row.id), row.notes, row.why, row.data);
    this.#rows.set(id, row);
    this.#list.append(row.element);
    return row;
  }

  #fill(row, tool) {
    say(row.name, tool.target);
    say(row.id, tool.executionId ?? '');
    say(row.status, [tool.status, ...RUNNING.has(tool.status) ? waits(tool) : []].join(', '));
    say(row.ms, duration(tool.ms));
    row.element.dataset.status = RUNNING.has(tool.status) ? 'running' : tool.status;
    say(row.notes, tool.notes?.join('\n'));
    row.notes.hidden = !tool.notes;
    const why = tool.why ?? tool.problem?.detail ?? tool.problem?.code;
    say(row.why, why);
    row.why.hidden = !why;
  }

  #data(row, title, value) {
    if (value === undefined || value === null) return;
    let block = row.blocks.get(title);
    if (!block) {
      block = el('pre.af-json', {dir: 'auto'});
      row.blocks.set(title, block);
      row.data.append(el('details.af-fold', {open: title !== 'Arguments'}, el('summary', {}, title), block));
    }
    say(block, pretty(value));
  }
}
