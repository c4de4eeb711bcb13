"""Speech of the agent: one reply slot, a queue before it, and a record of how each speech was heard.

In: requests to speak (of the handler, of the declaration, of the machine), events about replies and their playback. Out:
commands to the provider, events `speech.started` and `speech.ended`, answers to `say` and `reply`. Reading order:
`utterance`, `sequencer`, `queue`, `policy`, `log`, `call_opening`, `interruption` (barge-in), `model_answers`.
"""
