"""The production path of `local/webrtc`: a server process with the real speech engines, started by the adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfield.realtime.commands import Say
from agentfield.realtime.events import PlayoutStopped, ReplyEnded, SessionClosed, SessionReady
from agentfield_local import adapters
from local_server_kit import Caller
from openai_kit import Runtime, config


@pytest.mark.speech
async def test_the_first_call_starts_the_server_and_is_spoken_to(tmp_path: Path) -> None:
    """From nothing to a heard sentence: the process is started, the call is made, the words are heard and the call ends."""
    settings = config(provider="local", model="local-realtime-1", voice="joe", transcription="moonshine-tiny-en")
    async with adapters.webrtc(Runtime("", data_dir=tmp_path)) as adapter:
        caller = Caller()
        try:
            answer = await adapter.negotiate(await caller.offer(), settings)
            session = await adapter.attach(answer.ref, settings)
            await caller.accept(answer.sdp)
            await session.send(Say(id="spk_1", text="Your order is on its way."))
            seen = []
            async for event in session.events():
                seen.append(event)
                if isinstance(event, PlayoutStopped):
                    await adapter.hang_up(answer.ref)
            await caller.hears_sound()
        finally:
            await caller.close()
    (ready,) = [event for event in seen if isinstance(event, SessionReady)]
    assert (ready.model, ready.voice) == ("local-realtime-1", "joe")
    (ended,) = [event for event in seen if isinstance(event, ReplyEnded)]
    assert (ended.command, ended.text) == ("spk_1", "Your order is on its way.")
    assert isinstance(seen[-1], SessionClosed)
