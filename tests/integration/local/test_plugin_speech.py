"""Production path of `local/webrtc`: the adapter starts a server process with the default speech engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfield.realtime.commands import SayCommand
from agentfield.realtime.events import PlayoutStopped, ReplyEnded, SessionClosed, SessionReady
from agentfield_local import adapters
from support.providers.local_server import Caller
from support.providers.openai import Runtime, config


@pytest.mark.speech
@pytest.mark.realtime
async def test_the_first_call_starts_the_server_and_hears_speech(tmp_path: Path) -> None:
    """The process is started, the call is answered, its speech is transcribed, and the call ends."""
    settings = config(provider="local", model="local-realtime-1", voice="joe", transcription="moonshine-tiny-en")
    async with adapters.webrtc(Runtime("", data_dir=tmp_path)) as adapter:
        caller = Caller()
        try:
            answer = await adapter.negotiate(await caller.offer(), settings)
            session = await adapter.attach(answer.ref, settings)
            await caller.accept(answer.sdp)
            await session.send(SayCommand(id="spk_1", text="Your order is on its way."))
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
