// The dictation page: the control plane's own call panel, and below it the notes that the agent's tool saved.

import '/agentfield/panel.js';

const SAVE_NOTE = 'voice-dictation.save_note';

const panel = document.querySelector('agentfield-call');
const list = document.querySelector('#notes');
const none = document.querySelector('#no-notes');

panel.recordings = [
  {label: '“My name is Maria and I live in New York.”', url: '/recordings/maria.wav'},
  {label: '“Please cancel my appointment on Friday.”', url: '/recordings/appointment.wav'},
];

panel.addEventListener('call', () => show([]));
panel.addEventListener('workflows', ({detail}) => {
  const saved = detail.executions.filter(({target, status}) => target === SAVE_NOTE && status === 'succeeded');
  show(saved.map(({output}) => output.text));
});

/** @param {string[]} notes Texts of the caller; shown as text nodes, never as markup. */
function show(notes) {
  list.replaceChildren(...notes.map((text) => {
    const note = document.createElement('li');
    note.textContent = text;
    return note;
  }));
  none.hidden = notes.length > 0;
}
