"""Harness of an adapter: it takes the control plane's place, and checks afterwards for leaked tasks and for the key."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr

from agentfield.plugins import Capabilities
from agentfield.plugins.manifest.choices import capabilities_of
from agentfield.plugins.manifest.completeness import voices_of
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import ServerVad, SessionConfig, SessionDeclaration, ToolSpec
from agentfield.realtime.provider import BridgedAdapter, CallRef, DirectAdapter, ProviderSession
from agentfield.realtime.sdp import gate_answer
from agentfield.testing.conformance.harness.adapter_runtime import (
    SECRET,
    CapturedLog,
    HarnessAdapterRuntime,
    captured_log,
)
from agentfield.testing.conformance.harness.blocked_loop import loop_guard
from agentfield.testing.conformance.harness.event_rules import broken_rule
from agentfield.testing.conformance.harness.harness_session import HarnessSession
from agentfield.testing.conformance.harness.lifetime import entered
from agentfield.testing.conformance.harness.subject import PairUnderTest
from agentfield.testing.conformance.harness.waiting import TaskTracker, time_limit
from agentfield.testing.peer import DirectPeer, PeerFactory, ProviderPeer

__all__ = ["LONG_TEXT", "TOOL", "AdapterHarness", "adapter_harness"]

LONG_TEXT = (
    "Every order that leaves our warehouse is counted, weighed, labelled, scanned and photographed, "
    "and then it travels by van, by train, by ship and by bicycle until it arrives at the door, where it meets the zebra."
)
"""A long text; its last word is not heard if the speech is stopped early."""
TOOL = "desk.look_up"
"""The tool of sessions with tools."""
_TOOL_SPEC = ToolSpec(
    target=TOOL,
    description="Looks something up.",
    parameters={
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
        "additionalProperties": False,
    },
)


@dataclass
class AdapterHarness:
    """An entered adapter and its peer."""

    subject: PairUnderTest
    peer: ProviderPeer
    adapter: DirectAdapter | BridgedAdapter
    runtime: HarnessAdapterRuntime
    log: CapturedLog
    tasks: TaskTracker
    visible: list[object] = field(default_factory=list)
    """Values that callers, pages or logs may show; none may contain the key."""

    @property
    def can(self) -> Capabilities:
        """The capabilities of the pair."""
        return self.subject.spec.capabilities

    @property
    def direct(self) -> DirectAdapter:
        """The adapter, of a pair whose media is `direct`."""
        return cast("DirectAdapter", self.adapter)

    @property
    def bridged(self) -> BridgedAdapter:
        """The adapter, of any other pair."""
        return cast("BridgedAdapter", self.adapter)

    def config(self, *, tools: bool = False, manual: bool = False, **declared: Any) -> SessionConfig:
        """Return a session configuration as the control plane freezes it for the pair.

        Args:
            tools: Whether the session has the tool `TOOL`.
            manual: Whether the caller commits turns (push to talk).
            **declared: Further fields of the declaration.
        """
        return session_config(self.subject, tools=tools, manual=manual, **declared)

    @asynccontextmanager
    async def session(
        self, config: SessionConfig | None = None, *, reading: bool = True
    ) -> AsyncIterator[HarnessSession]:
        """Open a session; close it at the end of the block, and add its events to `visible`."""
        config = config or self.config()
        async with AsyncExitStack() as stack:
            session = await self.open(stack, config, reading=reading)
            async with self._closing(session):
                yield session

    @asynccontextmanager
    async def opened(
        self, session: ProviderSession, config: SessionConfig, audio: AudioFormat
    ) -> AsyncIterator[HarnessSession]:
        """Use a session that was opened otherwise, as `session` does."""
        async with self._closing(HarnessSession(session, config, self.can, self.peer, self.tasks, audio=audio)) as each:
            yield each

    @asynccontextmanager
    async def _closing(self, session: HarnessSession) -> AsyncIterator[HarnessSession]:
        try:
            yield session
        except BaseException as error:
            with suppress(AssertionError):  # what failed first says more than a failure to close
                await session.close()
            self.visible += session.events
            broken = self._broken_rule(session) if isinstance(error, AssertionError) else None
            if broken is None:
                raise
            raise broken from error  # it is often why an expectation was not met
        await session.close()
        self.visible += session.events
        if broken := self._broken_rule(session):
            raise broken

    def _broken_rule(self, session: HarnessSession) -> AssertionError | None:
        broken = broken_rule(session.events, session.sent, config=session.config, can=self.can, audio=session.output)
        return None if broken is None else AssertionError(f"{broken}{session.describe()}")

    async def open(self, stack: AsyncExitStack, config: SessionConfig, *, reading: bool = True) -> HarnessSession:
        """Open a session, on direct media with a caller; `stack` ends the call."""
        if self.subject.spec.media != "direct":
            audio = self.bridged.formats[0]
            session = await self.tasks.run("the session opens", self.bridged.open(config, audio))
            return HarnessSession(session, config, self.can, self.peer, self.tasks, audio=audio, reading=reading)
        caller = await stack.enter_async_context(cast("DirectPeer", self.peer).caller())
        ref = await self.call(stack, caller, config)
        session = await self.attach(ref, config)
        return HarnessSession(session, config, self.can, self.peer, self.tasks, caller=caller, reading=reading)

    async def call(self, stack: AsyncExitStack, caller: Any, config: SessionConfig) -> CallRef:
        """Connect a caller over direct media; `stack` hangs up."""
        offer = await caller.offer()
        answer = await self.tasks.run("the call is answered", self.direct.negotiate(offer, config))
        gate_answer(answer.sdp)
        stack.push_async_callback(self.hang_up, answer.ref)
        self.visible += [answer.sdp, dict(answer.ref)]
        async with time_limit("the caller is connected"):
            await caller.accept(answer.sdp)
        return answer.ref

    async def attach(self, ref: CallRef, config: SessionConfig) -> ProviderSession:
        """Attach to a call."""
        return await self.tasks.run("the call is attached", self.direct.attach(ref, config))

    async def hang_up(self, ref: CallRef) -> None:
        """End a call."""
        await self.tasks.run("the call is hung up", self.direct.hang_up(ref))


@asynccontextmanager
async def adapter_harness(
    subject: PairUnderTest,
    factory: PeerFactory,
    data_dir: Path,
    *,
    base_url: str | None = None,
    key: str = SECRET,
    secret: str = SECRET,
) -> AsyncIterator[AdapterHarness]:
    """Run a peer and enter the adapter; check at the end that no task is left and that the key is not visible.

    Args:
        subject: The pair.
        factory: Makes the peer.
        data_dir: The adapter's data folder.
        base_url: The provider's address; by default the peer's.
        key: The adapter's key; by default the peer's.
        secret: The key that the peer requires; "" for none.
    """
    tasks = TaskTracker()
    with captured_log() as log, loop_guard():
        async with tasks.tracking(), factory(secret) as peer:
            runtime = HarnessAdapterRuntime(
                base_url=peer.base_url if base_url is None else base_url,
                key=SecretStr(key) if key and subject.provider.key_setting is not None else None,
                data_dir=data_dir,
                logger=logging.getLogger(f"agentfield.adapter.{subject.spec.provider}"),
            )
            async with entered(subject.spec.factory, runtime, tasks) as adapter:
                harness = AdapterHarness(subject, peer, adapter, runtime, log, tasks)
                yield harness
            await tasks.assert_none_left("the adapter")
        _assert_no_secret(harness.visible, "a value that the session shows")
        _assert_no_secret(log.lines, "a log line")


def _assert_no_secret(values: Sequence[object], where: str) -> None:
    for each in values:
        if SECRET in repr(each) or SECRET in str(each):
            raise AssertionError(f"the provider's key is in {where}: {str(each).replace(SECRET, 'THE-KEY')}")


def session_config(
    subject: PairUnderTest, *, tools: bool = False, manual: bool = False, **declared: Any
) -> SessionConfig:
    """Return a session configuration for a pair, with the pair's own capabilities and defaults."""
    model = (
        declared.get("model") or subject.provider.models.default or next(iter(subject.provider.models.known), "default")
    )
    can = capabilities_of(subject.spec, subject.provider, model)
    floor = declared.pop("floor", None) or ("handler" if "handler" in can.floors else "model")
    declaration = SessionDeclaration.model_validate(
        {
            "name": "voice",
            "provider": subject.spec.provider,
            "transport": subject.spec.transport,
            "floor": floor,
            "tools": (TOOL,) if tools else (),
            "instructions": "You help.",
            "turn_detection": "manual" if manual else "default",
            **declared,
        }
    )
    voices = voices_of(subject.provider, model)
    return SessionConfig(
        session_id="ses_conformance",
        target="desk.voice",
        declaration=declaration,
        model=model,
        voice=declaration.voice or voices.default or next(iter(voices.known), None),
        transcription=can.default_transcription,
        modalities=declaration.modalities or tuple(sorted(can.modalities)),
        turn_detection=ServerVad() if "server_vad" in can.turn_detection and not manual else None,
        tools=(_TOOL_SPEC,) if tools else (),
        safety_id="conformance",
    )
