// The built-in call page: the session of the address's one-time code, or a choice among the sessions of linked nodes.

import {Call} from '/agentfield.js';
import '/agentfield/panel.js';

const panel = document.querySelector('agentfield-call');
panel.recordings = [
  {label: '“Where is my order number four two seven?”', url: '/agentfield/recordings/order.wav'},
  {label: '“Yes, go ahead and send it.”', url: '/agentfield/recordings/yes.wav'},
];

try {
  const call = await Call.fromFragment();
  if (call) panel.call = call;
  else await panel.chooseTarget();
} catch (error) {
  panel.report(error);
}
