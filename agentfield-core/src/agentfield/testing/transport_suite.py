"""The suite of a transport: its caller hears and is heard, and nobody comes in without evidence."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

from agentfield.errors import AgentFieldError
from agentfield.plugins import PLUGIN_API, PluginRecord, TransportInfo
from agentfield.plugins.registry import load_attribute
from agentfield.realtime.caller import CallerGone, CallerText
from agentfield.realtime.commands import CancelReply, CommitTurn
from agentfield.realtime.events import (
    Dtmf,
    Interrupted,
    PlayoutStarted,
    PlayoutStopped,
    ReplyAudio,
    ReplyEnded,
)
from agentfield.testing.finding import carried_by, transport_peer_of
from agentfield.testing.manifest_tests import loads_lightly
from agentfield.testing.peer import PeerFactory
from agentfield.testing.suite import Suite
from agentfield.testing.transport_stage import TARGET, TransportStage, transport_on_stage
from agentfield.testing.waiting import holds, within

__all__ = ["TransportSuite"]

_REFUSED = (401, 403)
_REPLY = "reply_1"
_SHORT_MS, _LONG_MS = 400, 60_000
_BUFFERED = 64 * 1024 * 1024
"""Bytes that a transport may have taken for a caller who reads nothing; far more than a machine's own buffers."""


class TransportSuite(Suite):
    """The standard tests of a transport; subclass it as `AdapterSuite`, with ``pair = "*/acme"``."""

    @pytest.fixture
    def carried(self, pair_name: str) -> tuple[TransportInfo, PluginRecord]:
        """Return the transport and the plugin that brings it."""
        return carried_by(pair_name)

    @pytest.fixture
    def info(self, carried: tuple[TransportInfo, PluginRecord]) -> TransportInfo:
        """Return the transport."""
        return carried[0]

    @pytest.fixture
    def peer_factory(self, info: TransportInfo) -> PeerFactory:
        """Return what makes the caller; override it to bring one of your own."""
        return transport_peer_of(info)

    async def test_the_manifest_is_light(self, carried: tuple[TransportInfo, PluginRecord]) -> None:
        """Importing the manifest imports the standard library, agentfield and plugins, and nothing else."""
        await loads_lightly(carried[1])

    async def test_the_manifest_is_complete(self, carried: tuple[TransportInfo, PluginRecord]) -> None:
        """The plugin is made for this API, and its routes are such that a caller can come in."""
        info, record = carried
        assert record.state == "ok", record.reason
        assert record.manifest is not None
        assert record.manifest.api[0] == PLUGIN_API[0], f"made for plugin API {record.manifest.api}"
        assert info.media == "bridged", "only transports whose media is bridged bring legs of their own"
        assert info.routes, "it has no routes, so nobody could come in"
        assert info.factory, "it has no factory"
        assert callable(load_attribute(info.factory)), f"{info.factory} cannot be called"

    async def test_every_route_is_served(self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The factory is entered and left without a call, and the transport has the methods that its routes name."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            wanted = {route.handler for route in info.routes}
            if any(route.access == "verified" for route in info.routes):
                wanted.add("verify")
            for name in sorted(wanted):
                method = getattr(stage.transport, name, None)
                assert inspect.iscoroutinefunction(method), f"the transport has no method `async def {name}(...)`"

    async def test_nobody_comes_in_without_evidence(
        self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Who cannot show who they are is refused, and nothing is started for them."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            async with within("the intruder is answered"):
                status = await stage.caller.intrude(stage.place)
            assert status in _REFUSED, f"the intruder was answered with {status}, not with 401 or 403"
            assert not stage.exchange.started, "a session was started for an intruder"
            assert not stage.exchange.legs, "an intruder is carried"

    async def test_a_call_comes_in(self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A caller is carried in a format that the manifest names, by a session that was started once, with evidence."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            leg = await stage.call()
            assert leg.format.name in info.formats, f"the leg speaks {leg.format.name}, which is not declared"
            assert leg.listening, "a caller who is there listens"
            if any(route.access == "verified" for route in info.routes):
                assert [target for target, _ in stage.exchange.started] == [TARGET], "one call is one session"
                assert stage.exchange.started[0][1].method, "the evidence does not say how it was verified"

    async def test_the_caller_is_heard(self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Audio of the caller arrives as it was sent, in order."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            leg = await stage.call()
            said = _pattern(leg.format.size(_SHORT_MS))
            await stage.caller.speak(said)
            await holds("all audio of the caller arrives", lambda: len(stage.exchange.played.audio) >= len(said))
            assert stage.exchange.played.audio == said, "audio of the caller was changed on its way"

    async def test_the_caller_hears(self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A reply is heard as it was spoken, and its end is known: by the caller's marks where it has them."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            leg = await stage.call()
            spoken = _pattern(leg.format.size(_SHORT_MS))
            _speak(stage, spoken)
            stopped = await stage.event(PlayoutStopped)
            assert stopped.method == ("marks" if leg.marks else "wallclock")
            await holds("all audio is heard", lambda: len(stage.caller.heard) >= len(spoken))
            assert stage.caller.heard == spoken, "audio for the caller was changed on its way"

    async def test_an_interruption_is_heard_at_once(
        self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A reply that is stopped is cleared at the caller's end, and what was heard of it is a part."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            leg = await stage.call()
            _speak(stage, bytes(leg.format.size(_LONG_MS)))
            await stage.event(PlayoutStarted)
            await holds("something is heard", lambda: len(stage.caller.heard) >= leg.format.size(_SHORT_MS))
            bridge = stage.exchange.bridge
            assert bridge is not None
            async with within("the reply is cancelled"):
                await bridge.send(CancelReply(reply=_REPLY))
            interrupted = await stage.event(Interrupted)
            assert 0 <= (interrupted.heard_ms or 0) < _LONG_MS, f"{interrupted.heard_ms} ms were heard"
            await holds("the caller is told to throw away the rest", lambda: stage.caller.cleared > 0)

    async def test_keys_words_and_commits(self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """What the manifest says that callers can do besides speaking arrives."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            leg = await stage.call()
            if info.dtmf:
                for digit in "4#":
                    await stage.caller.press(digit)
                await holds("two keys arrive", lambda: len(_keys(stage)) > 1)
                assert "".join(_keys(stage)) == "4#"
            if info.text_input:
                await stage.caller.type("naïve")
                assert (await stage.hears(CallerText)).text == "naïve"
            if info.commits:
                await stage.caller.speak(bytes(leg.format.size(_SHORT_MS)))
                await stage.caller.commit()
                sent = stage.exchange.played.sent
                await holds("the commit arrives", lambda: any(isinstance(each, CommitTurn) for each in sent))

    @pytest.mark.parametrize("said", [True, False], ids=["hangs_up", "vanishes"])
    async def test_the_caller_goes(
        self,
        info: TransportInfo,
        peer_factory: PeerFactory,
        tmp_path: Path,
        said: bool,
    ) -> None:
        """A caller who hangs up, or is cut off, is gone: the leg is over, and the transport lets go of it."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            await stage.call()
            await (stage.caller.hang_up() if said else stage.caller.vanish())
            gone = await stage.hears(CallerGone)
            assert gone.why or gone.hung_up, "why the line is gone is not said"
            if said:
                assert gone.hung_up, "a caller who hung up may not come back, one who was cut off may"
            await holds("the leg is not carried any more", lambda: stage.exchange.carried)

    async def test_the_agent_hangs_up(self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """When the session ends, the caller's line is closed; closing a leg twice is closing it once."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            leg = await stage.call()
            await stage.exchange.close()
            await holds("the caller's call is over", lambda: not stage.caller.connected)
            async with within("the leg closes"):
                await leg.close()
                await leg.close()

    async def test_a_caller_who_reads_nothing_is_waited_for(
        self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Audio for a caller on a dead line is not piled up: `play` waits, or says that the line is dead."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            leg = await stage.call()
            await stage.caller.stall()
            piece, taken = bytes(leg.format.frame * 32 * 1024), 0
            while taken < _BUFFERED:
                try:
                    async with asyncio.timeout(1):
                        await leg.play(_REPLY, piece)
                except (TimeoutError, AgentFieldError):
                    return
                taken += len(piece)
            raise AssertionError(f"{taken} bytes were taken for a caller who reads nothing")

    async def test_shutdown_during_a_call(self, info: TransportInfo, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A transport that is left in the middle of a call lets go of it; no task goes on."""
        async with transport_on_stage(info, peer_factory, tmp_path) as stage:
            leg = await stage.call()
            _speak(stage, bytes(leg.format.size(_LONG_MS)))
            await stage.event(PlayoutStarted)


def _speak(stage: TransportStage, audio: bytes) -> None:
    stage.exchange.played.tell(ReplyAudio(reply=_REPLY, data=audio), ReplyEnded(reply=_REPLY, audio=True))


def _keys(stage: TransportStage) -> list[str]:
    return [each.digit for each in stage.exchange.told if isinstance(each, Dtmf)]


def _pattern(size: int) -> bytes:
    """Return bytes of which no two neighbours are alike, so that a lost or doubled piece is seen."""
    return bytes(at * 7 % 251 for at in range(size))
