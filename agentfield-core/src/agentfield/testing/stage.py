"""Puts an adapter between its peer and a test, in the place of the control plane, and looks afterwards what it left behind."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr

from agentfield.plugins.registry import load_attribute
from agentfield.realtime.config import ServerVad, SessionConfig, SessionDeclaration, ToolSpec
from agentfield.realtime.provider import BridgedAdapter, CallRef, DirectAdapter, ProviderSession
from agentfield.testing.finding import Row
from agentfield.testing.peer import DirectPeer, PeerFactory, ProviderPeer
from agentfield.testing.runtime import SECRET, KitRuntime, Log, collected_log
from agentfield.testing.talk import Talk
from agentfield.testing.waiting import Tasks, within

__all__ = ["TOOL", "Stage", "on_stage"]

TOOL = "desk.look_up"
"""The tool of sessions that have one."""
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
class Stage:
    """An adapter that was entered, and its peer."""

    row: Row
    peer: ProviderPeer
    adapter: DirectAdapter | BridgedAdapter
    runtime: KitRuntime
    log: Log
    tasks: Tasks
    shown: list[object] = field(default_factory=list)
    """What a caller, a page or a log might see; the key must not be in it."""

    @property
    def direct(self) -> DirectAdapter:
        """The adapter of a direct medium."""
        return cast("DirectAdapter", self.adapter)

    @property
    def bridged(self) -> BridgedAdapter:
        """The adapter of a medium that passes through us."""
        return cast("BridgedAdapter", self.adapter)

    def config(self, *, tools: bool = False, manual: bool = False, **declared: Any) -> SessionConfig:
        """Return the configuration of a session, as the control plane would freeze it for the pair.

        Args:
            tools: Whether the session has the tool `TOOL`.
            manual: Whether the caller says when a turn is over.
            declared: More of the declaration.
        """
        return session_config(self.row, tools=tools, manual=manual, **declared)

    @asynccontextmanager
    async def talk(self, config: SessionConfig | None = None, *, reading: bool = True) -> AsyncIterator[Talk]:
        """Hold a session; at its end it is closed, and its events are kept in `shown`."""
        config = config or self.config()
        async with AsyncExitStack() as stack:
            talk = await self.open(stack, config, reading=reading)
            try:
                yield talk
            finally:
                await talk.close()
                self.shown += talk.events

    async def open(self, stack: AsyncExitStack, config: SessionConfig, *, reading: bool = True) -> Talk:
        """Open a session, with a caller where the medium is direct; `stack` ends the call."""
        if self.row.spec.media != "direct":
            audio = self.bridged.formats[0]
            async with self.doing("the session opens"):
                session = await self.bridged.open(config, audio)
            return Talk(session, config, self.peer, self.tasks, audio=audio, reading=reading)
        caller = await stack.enter_async_context(cast("DirectPeer", self.peer).caller())
        ref = await self.call(stack, caller, config)
        session = await self.attach(ref, config)
        return Talk(session, config, self.peer, self.tasks, caller=caller, reading=reading)

    async def call(self, stack: AsyncExitStack, caller: Any, config: SessionConfig) -> CallRef:
        """Connect a caller over a direct medium; `stack` hangs up."""
        offer = await caller.offer()
        async with self.doing("the call is answered"):
            answer = await self.direct.negotiate(offer, config)
        stack.push_async_callback(self.hang_up, answer.ref)
        self.shown += [answer.sdp, dict(answer.ref)]
        async with within("the caller is connected"):
            await caller.accept(answer.sdp)
        return answer.ref

    async def attach(self, ref: CallRef, config: SessionConfig) -> ProviderSession:
        """Attach to a call."""
        async with self.doing("the call is attached"):
            return await self.direct.attach(ref, config)

    async def hang_up(self, ref: CallRef) -> None:
        """End a call."""
        async with self.doing("the call is hung up"):
            await self.direct.hang_up(ref)

    @asynccontextmanager
    async def doing(self, what: str) -> AsyncIterator[None]:
        """Let the adapter do something in its time; the tasks that it starts are its own."""
        async with within(what):
            with self.tasks.theirs():
                yield


@asynccontextmanager
async def on_stage(
    row: Row, factory: PeerFactory, folder: Path, *, base_url: str | None = None, key: str = SECRET
) -> AsyncIterator[Stage]:
    """Run a peer and enter the adapter; at the end no task of it may be left, and the key is nowhere.

    Args:
        row: The pair.
        factory: Makes the peer.
        folder: The adapter's own folder.
        base_url: Where the adapter looks for the provider; at the peer's when left out.
        key: The key that the adapter has; the peer's when left out.
    """
    tasks = Tasks()
    with collected_log() as log, tasks.watched():
        async with factory(SECRET) as peer:
            runtime = KitRuntime(
                base_url=peer.base_url if base_url is None else base_url,
                key=SecretStr(key),
                data_dir=folder,
                logger=logging.getLogger(f"agentfield.adapter.{row.spec.provider}"),
            )
            entered = load_attribute(row.spec.factory)(runtime)
            async with within(f"{row.spec.factory} is entered"):
                with tasks.theirs():
                    adapter = await entered.__aenter__()
            stage = Stage(row, peer, adapter, runtime, log, tasks)
            try:
                yield stage
            finally:
                async with within(f"{row.spec.factory} is left"):
                    await entered.__aexit__(None, None, None)
            await tasks.none_left("the adapter")
        _no_secret(stage.shown, "what is told of the session")
        _no_secret(log.lines, "a log line")


def _no_secret(shown: Sequence[object], where: str) -> None:
    for each in shown:
        if SECRET in repr(each) or SECRET in str(each):
            raise AssertionError(f"the provider's key is in {where}: {str(each).replace(SECRET, 'THE-KEY')}")


def session_config(row: Row, *, tools: bool = False, manual: bool = False, **declared: Any) -> SessionConfig:
    """Return the configuration of a session of a pair, with what the pair declares as its own."""
    can = row.spec.capabilities
    floor = declared.pop("floor", None) or ("handler" if "handler" in can.floors else "model")
    declaration = SessionDeclaration.model_validate(
        {
            "name": "voice",
            "provider": row.spec.provider,
            "transport": row.spec.transport,
            "floor": floor,
            "modalities": tuple(sorted(can.modalities)),
            "tools": (TOOL,) if tools else (),
            "instructions": "You help.",
            "turn_detection": "manual" if manual else "default",
            **declared,
        }
    )
    voices, models = row.provider.voices, row.provider.models
    return SessionConfig(
        session_id="ses_conformance",
        target="desk.voice",
        declaration=declaration,
        model=models.default or next(iter(models.known), "default"),
        voice=voices.default or next(iter(voices.known), None),
        transcription=can.default_transcription,
        turn_detection=ServerVad() if "server_vad" in can.turn_detection and not manual else None,
        tools=(_TOOL_SPEC,) if tools else (),
        safety_id="conformance",
    )
