"""The conformance suite of a transport: audio passes both ways, and unverified callers are refused."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from agentfield.errors import AgentFieldError
from agentfield.plugins import PLUGIN_API
from agentfield.plugins.manifest.completeness import manifest_gaps, transport_gaps
from agentfield.plugins.manifest.references import load_attribute
from agentfield.realtime.caller import CallerCommit, CallerDtmf, CallerGone, CallerText
from agentfield.realtime.commands import CancelReplyCommand, CommitTurnCommand
from agentfield.realtime.events import (
    Dtmf,
    Interrupted,
    PlayoutStarted,
    PlayoutStopped,
    ReplyAudio,
    ReplyEnded,
)
from agentfield.testing.conformance.harness.subject import TransportUnderTest, caller_peer_factory, find_transport
from agentfield.testing.conformance.harness.transport_harness import TARGET, TransportHarness, transport_harness
from agentfield.testing.conformance.harness.waiting import time_limit, wait_until
from agentfield.testing.conformance.manifest_tests import assert_light_import
from agentfield.testing.conformance.suite import ConformanceSuite
from agentfield.testing.peer import PeerFactory

__all__ = ["TransportSuite"]

_REFUSED = (401, 403)
_REPLY = "reply_1"
_SHORT_MS, _LONG_MS = 400, 60_000
_BUFFERED = 64 * 1024 * 1024
"""Bytes that a transport may accept for a stalled caller; far more than the buffers of an operating system."""


class TransportSuite(ConformanceSuite):
    """The standard tests of a transport; subclass it like `AdapterSuite`, with ``pair = "*/acme"``."""

    @pytest.fixture
    def subject(self, pair_name: str) -> TransportUnderTest:
        """Return the transport and the plugin that declares it."""
        return find_transport(pair_name)

    @pytest.fixture
    def peer_factory(self, subject: TransportUnderTest) -> PeerFactory:
        """Return the factory of the caller; override it to use another one."""
        return caller_peer_factory(subject.spec)

    async def test_the_manifest_is_light(self, subject: TransportUnderTest) -> None:
        """Importing the manifest imports only the standard library, agentfield and plugins."""
        await assert_light_import(subject.record)

    async def test_the_manifest_is_complete(self, subject: TransportUnderTest) -> None:
        """The plugin is made for this plugin API, and the transport has a factory and routes."""
        spec, record = subject.spec, subject.record
        assert record.state == "ok", record.reason
        assert record.manifest is not None
        assert record.manifest.api[0] == PLUGIN_API[0], f"made for plugin API {record.manifest.api}"
        gaps = [*manifest_gaps(record.manifest), *transport_gaps(spec)]
        assert not gaps, "\n".join(gaps)
        missing = [name for name in spec.requires if importlib.util.find_spec(name.partition(".")[0]) is None]
        assert not missing, f"requires names modules that are not installed: {', '.join(missing)}"
        assert spec.factory, "it has no factory"
        assert callable(load_attribute(spec.factory)), f"{spec.factory} cannot be called"

    async def test_every_route_is_served(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """The factory can be entered and exited without a call, and the transport has a method for each route."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            assert harness.transport is not None, f"{subject.spec.factory} yields nothing"

    async def test_unverified_callers_are_refused(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A caller without valid evidence is refused with 401 or 403, and no session is started."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            async with time_limit("the unverified caller gets a response"):
                status = await harness.caller.call_unverified(harness.endpoint)
            assert status in _REFUSED, f"an unverified caller got status {status}, not 401 or 403"
            assert not harness.runtime.started, "a session was started for an unverified caller"
            assert not harness.runtime.legs, "an unverified caller is carried"

    async def test_a_call_is_connected(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A caller is carried in a declared format, by one session that was started with evidence."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            leg = await harness.call()
            assert leg.format.name in subject.spec.formats, f"the leg's format {leg.format.name} is not declared"
            assert leg.listening, "the leg of a connected caller must be listening"
            if any(route.access == "verified" for route in subject.spec.routes):
                assert [target for target, _ in harness.runtime.started] == [TARGET], "one call must start one session"
                assert harness.runtime.started[0][1].method, "the evidence does not say how it was verified"

    async def test_caller_audio_arrives(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """The caller's audio arrives unchanged and in order."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            leg = await harness.call()
            said = _pattern(leg.format.size(_SHORT_MS))
            await harness.caller.speak(said)
            await wait_until(
                "all audio of the caller arrives", lambda: len(harness.runtime.provider_session.audio) >= len(said)
            )
            assert harness.runtime.provider_session.audio == said, "the caller's audio was changed"

    async def test_agent_audio_arrives(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A reply reaches the caller unchanged, and its end is known, from marks where the leg has them."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            leg = await harness.call()
            spoken = _pattern(leg.format.size(_SHORT_MS))
            _start_reply(harness, spoken)
            stopped = await harness.event(PlayoutStopped)
            method = "marks" if leg.marks else "wallclock"
            assert stopped.method == method, (
                f"marks is {leg.marks}, and the end of the playout is known by {stopped.method}: yield CallerMark(name) for each "
                "mark that the caller reports, or set marks to False"
            )
            await wait_until("all audio is heard", lambda: len(harness.caller.heard) >= len(spoken))
            assert harness.caller.heard == spoken, "the reply's audio was changed"

    async def test_an_interruption_clears_the_playout(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A cancelled reply is cleared at the caller, and only a part of it counts as heard."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            leg = await harness.call()
            _start_reply(harness, bytes(leg.format.size(_LONG_MS)))
            await harness.event(PlayoutStarted)
            await wait_until("something is heard", lambda: len(harness.caller.heard) >= leg.format.size(_SHORT_MS))
            bridge = harness.runtime.bridge
            assert bridge is not None
            await harness.tasks.run("the reply is cancelled", bridge.send(CancelReplyCommand(reply=_REPLY)))
            interrupted = await harness.event(Interrupted)
            assert 0 <= (interrupted.heard_ms or 0) < _LONG_MS, f"{interrupted.heard_ms} ms were heard"
            await wait_until("the caller is told to clear its playout", lambda: harness.caller.cleared > 0)
            await harness.tasks.run("clear() returns once the clear is sent", leg.clear())

    async def test_dtmf_text_and_commits(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """The inputs that the manifest declares besides audio arrive: keys, text and commits."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            leg = await harness.call()
            if subject.spec.dtmf:
                for digit in "4#":
                    await harness.caller.press_key(digit)
                await wait_until("two keys arrive", lambda: len(_digits(harness)) > 1)
                assert "".join(_digits(harness)) == "4#"
            if subject.spec.text_input:
                await harness.caller.send_text("naïve")
                assert (await harness.caller_input(CallerText)).text == "naïve"
            if subject.spec.commits:
                await harness.caller.speak(bytes(leg.format.size(_SHORT_MS)))
                await harness.caller.commit()
                sent = harness.runtime.provider_session.sent
                await wait_until(
                    "the commit arrives", lambda: any(isinstance(each, CommitTurnCommand) for each in sent)
                )

    async def test_undeclared_inputs_do_not_arrive(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Keys, text and commits that the manifest does not declare do not arrive, where the caller can send them at all."""
        declared = {name: getattr(subject.spec, name) for name in ("dtmf", "text_input", "commits")}
        for name in (name for name, has in declared.items() if not has):
            async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
                await harness.call()
                if not await _sends(harness, name):
                    continue
                await harness.caller.hang_up()  # what was sent before has arrived when the caller is gone
                await harness.caller_input(CallerGone)
                assert not _arrived(harness, name), (
                    f"{name} is False, and such input of a caller arrives: declare {name}=True, or this transport's pairs lack it"
                )

    async def test_every_setting_is_read(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Each setting that the manifest names is read by the time that a call is connected."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            await harness.call()
            unread = sorted(set(subject.spec.settings) - harness.runtime.read)
            assert not unread, (
                f"settings has {', '.join(unread)}, and the transport did not read it by the time that a call was connected: read it in "
                "the factory, or take it out; `af doctor` and the documentation show each setting"
            )

    @pytest.mark.parametrize("hangs_up", [True, False], ids=["hangs_up", "drops"])
    async def test_the_caller_disconnects(
        self,
        subject: TransportUnderTest,
        peer_factory: PeerFactory,
        tmp_path: Path,
        hangs_up: bool,
    ) -> None:
        """When a caller hangs up or its connection drops, the leg ends and the transport releases it."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            await harness.call()
            await (harness.caller.hang_up() if hangs_up else harness.caller.drop())
            gone = await harness.caller_input(CallerGone)
            assert gone.why or gone.hung_up, "CallerGone gives no reason"
            if hangs_up:
                assert gone.hung_up, "CallerGone.hung_up must be true: a caller who hung up cannot reconnect"
            await wait_until("the leg ends", lambda: harness.runtime.leg_ends)

    async def test_the_agent_hangs_up(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """When the session ends, the caller is disconnected; closing a leg is idempotent."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            leg = await harness.call()
            await harness.runtime.close()
            await wait_until("the caller is disconnected", lambda: not harness.caller.connected)
            for _ in range(2):
                await harness.tasks.run("the leg closes", leg.close())

    async def test_a_stalled_caller_causes_backpressure(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Audio for a stalled caller is not buffered without limit: `play` waits or raises."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            leg = await harness.call()
            await harness.caller.stall()
            piece, taken = bytes(leg.format.frame * 32 * 1024), 0
            while taken < _BUFFERED:
                playing = harness.tasks.start(leg.play(_REPLY, piece), "a stalled caller's audio")
                done, _ = await asyncio.wait({playing}, timeout=1)
                if not done:
                    assert await harness.tasks.stop(playing), (
                        "play ignores its cancellation: raise CancelledError again"
                    )
                    return
                if isinstance(playing.exception(), AgentFieldError):
                    return
                playing.result()
                taken += len(piece)
            raise AssertionError(f"{taken} bytes were accepted for a stalled caller")

    async def test_shutdown_during_a_call(
        self, subject: TransportUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A transport that is exited during a call releases it and leaves no task."""
        async with transport_harness(subject.spec, peer_factory, tmp_path) as harness:
            leg = await harness.call()
            _start_reply(harness, bytes(leg.format.size(_LONG_MS)))
            await harness.event(PlayoutStarted)


def _start_reply(harness: TransportHarness, audio: bytes) -> None:
    harness.runtime.provider_session.emit(ReplyAudio(reply=_REPLY, data=audio), ReplyEnded(reply=_REPLY, audio=True))


async def _sends(harness: TransportHarness, name: str) -> bool:
    """Let the caller send an input; return whether it can."""
    caller = harness.caller
    sending = {
        "dtmf": lambda: caller.press_key("4"),
        "text_input": lambda: caller.send_text("naïve"),
        "commits": caller.commit,
    }
    try:
        await sending[name]()
    except NotImplementedError:
        return False
    return True


def _arrived(harness: TransportHarness, name: str) -> bool:
    kind = {"text_input": CallerText, "dtmf": CallerDtmf, "commits": CallerCommit}[name]
    runtime = harness.runtime
    committed = any(isinstance(each, CommitTurnCommand) for each in runtime.provider_session.sent)
    return any(isinstance(each, kind) for each in runtime.caller_input) or {
        "dtmf": bool(_digits(harness)),
        "commits": committed,
    }.get(name, False)


def _digits(harness: TransportHarness) -> list[str]:
    return [each.digit for each in harness.runtime.bridge_events if isinstance(each, Dtmf)]


def _pattern(size: int) -> bytes:
    """Return bytes of which no two neighbours are equal, so that a lost or repeated piece is detected."""
    return bytes(at * 7 % 251 for at in range(size))
