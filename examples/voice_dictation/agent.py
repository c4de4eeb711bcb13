"""An agent that takes dictation: it saves what the caller says as a note and reads the note back.

    af dev examples/voice_dictation

It runs on the local provider, without a key or network. For another provider change only the four values below,
here or in the environment.
"""

from __future__ import annotations

import os
from collections import defaultdict

from agentfield import Agent, Session
from agentfield.context import session_id

PROVIDER = os.environ.get("DICTATION_PROVIDER", "local")  # or "openai"
TRANSPORT = os.environ.get("DICTATION_TRANSPORT", "webrtc")
MODEL = os.environ.get("DICTATION_MODEL", "local-realtime-1")  # or "gpt-realtime-2"
VOICE = os.environ.get("DICTATION_VOICE", "joe")  # or "marin"

app = Agent(node_id="voice-dictation")
notes: defaultdict[str | None, list[str]] = defaultdict(list)


@app.reasoner()
async def save_note(text: str) -> dict[str, int | str]:
    """Save a note; each session has its own."""
    mine = notes[session_id()]
    mine.append(text)
    return {"count": len(mine), "text": text}


@app.session(
    "dictate",
    provider=PROVIDER,
    transport=TRANSPORT,
    model=MODEL,
    voice=VOICE,
    tools=["voice-dictation.save_note"],
)
async def dictate(session: Session) -> None:
    """Take one turn; the control plane runs the handler again for the next."""
    turn = await session.input()
    if turn.text is None:
        await session.say("I did not catch that. Please say it again.")
        return
    note = await session.call("voice-dictation.save_note", text=turn.text)
    await session.say(f"I noted: {note['text']}")


if __name__ == "__main__":
    app.run()
