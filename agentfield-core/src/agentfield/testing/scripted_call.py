"""One session at the scripted provider: says what the caller says, speaks silence of the right length, forgets nothing."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from agentfield.errors import ProviderUnavailable
from agentfield.plugins.spec import PairSpec
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddText,
    AppendAudio,
    CancelReply,
    Command,
    CommitTurn,
    End,
    Reply,
    Say,
    SendToolResult,
    Update,
)
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Event,
    ProviderFault,
    SessionClosed,
    ToolRequested,
    TurnCommitted,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
)
from agentfield.testing.answers import Answer, Asked, answer_of
from agentfield.testing.scripted_voice import Voice

if TYPE_CHECKING:
    from agentfield.testing.scripted import Scripted

__all__ = ["ScriptedCall"]

_MAX_EVENTS = 10_000


class ScriptedCall:
    """A session at the scripted provider (`agentfield.realtime.provider.ProviderSession`).

    Args:
        script: What the test says.
        config: The session's frozen configuration.
        pair: The row of the matrix that carries it.
        audio: The format of both directions, None where the media does not pass through the control plane.
    """

    def __init__(self, script: Scripted, config: SessionConfig, pair: PairSpec, audio: AudioFormat | None) -> None:
        self.config = config
        self.pair = pair
        self.commands: list[Command] = []
        """All commands that it was given, in order."""
        self.conversation: list[tuple[str, str]] = []
        """Who said what, as the model knows it: ``caller``, ``agent``, ``tool``."""
        self.ended = False
        self._script = script
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(_MAX_EVENTS)
        self._hearing: deque[str] = deque()
        self._last_item: str | None = None
        self._interruptible = True
        self._broken = False
        self._voice = Voice(script, audio, tell=self.tell, use=self._use, said=self._said, pauses=script.pauses)
        self._tools: dict[str, str] = {}
        self._results: dict[str, Any] = {}

    # --- the provider's session

    async def send(self, command: Command) -> None:
        """Do `command`, as the script says.

        Raises:
            ProviderUnavailable: The line was dropped.
        """
        if self._broken:
            raise ProviderUnavailable("the scripted line was dropped")
        self.commands.append(command)
        match command:
            case Say():
                self._voice.speak(self._script.reword(command.text), command.id, Answer())
            case Reply():
                self._answer(command)
            case CancelReply():
                self._voice.stop(command.reply, why="asked")
            case CommitTurn():
                self._recorded(command)
            case AddText():
                self.conversation.append(("agent" if command.role == "assistant" else "caller", command.text))
            case SendToolResult():
                self._result(command)
            case Update():
                self._interruptible = command.interruptible
            case End():
                self._close(SessionClosed(reason="closed"))
            case AppendAudio():
                pass

    async def events(self) -> AsyncIterator[Event]:
        """Yield what the script lets happen."""
        while (event := await self._events.get()) is not None:
            yield event
            if isinstance(event, SessionClosed):
                return

    async def close(self) -> None:
        """Let go; idempotent."""
        self.ended = True
        self._voice.be_quiet()
        self._events.put_nowait(None)

    # --- what the test lets happen

    def tell(self, *events: Event) -> None:
        """Let any events happen, in this order."""
        for event in events:
            self._events.put_nowait(event)

    async def says(self, text: str, *, failed: str | None = None, pause: str | None = None) -> str:
        """Let the caller say something; returns the item of the turn.

        Speech that is to stand still is waited for, and spoken over.

        Args:
            text: The words.
            failed: Why there is no transcript of them, None when there is one.
            pause: Let what is said next stand still once the caller has heard these words of it, see `pause`.

        Raises:
            AssertionError: The call is over, or the speech never came to where it was to stand still.
        """
        await self.still()
        if pause is not None:
            self.pause(pause)
        item = await self.begins()
        return self.finishes(item, text, failed=failed)

    async def begins(self) -> str:
        """Let the caller begin to speak, over the agent if it speaks; returns the item of the turn.

        Speech that stands still is stopped by then, where it is at all.
        """
        self._check_open()
        item = self._script.name("item")
        if self._listens:
            self.tell(TurnStarted(item=item))
            await self._barge_in()
        return item

    def finishes(self, item: str, text: str, *, failed: str | None = None) -> str:
        """Let the caller end what `begins` began; a model that has the floor answers."""
        self._check_open()
        if self._listens:
            self.tell(TurnStopped(item=item))
        self._commit(item, text, failed=failed)
        if self._listens and self.config.declaration.floor == "model":
            self._answer(None)
        return item

    def pause(self, after: str) -> None:
        """Let the next speech that holds these words stand still once the caller has heard them, until somebody stops it."""
        self._voice.pause(after)

    async def still(self) -> None:
        """Wait until the speech stands still that is to; when none is, return at once.

        Raises:
            AssertionError: It never came to that.
        """
        await self._voice.still()

    async def go_on(self) -> None:
        """Let the speech that stands still go on to its end.

        Raises:
            AssertionError: There is none.
        """
        await self._voice.go_on()

    @property
    def waiting(self) -> list[str]:
        """Words after which speech was to stand still, and that were not said so far."""
        return self._voice.waiting

    def will_hear(self, text: str) -> None:
        """Know the words of the next recording: what was said in a turn that the caller commits."""
        self._hearing.append(text)

    def hangs_up(self) -> None:
        """Let the caller go, where the provider notices it."""
        self._close(SessionClosed(reason="closed"))

    def drops(self, message: str = "the line broke") -> None:
        """Let the line to the provider break; the session may be opened or attached to again."""
        self._broken = True
        self._close(SessionClosed(reason="provider_error", message=message, retry=True))

    def expires(self) -> None:
        """Let the provider end the session because it lasted too long."""
        self._close(SessionClosed(reason="provider_expired"))

    def fails(self, code: str, message: str = "the scripted provider failed", *, fatal: bool = False) -> None:
        """Let the provider report an error."""
        self.tell(ProviderFault(code=code, message=message, fatal=fatal))

    # --- turns

    @property
    def _listens(self) -> bool:
        """Whether the provider finds out by itself when the caller speaks."""
        return self.config.turn_detection is not None and self.pair.media != "turns"

    def _recorded(self, command: CommitTurn) -> None:
        if not self._hearing:
            self._script.disagree("the caller sent a recording and the script does not say what was said in it")
        text = self._hearing.popleft() if self._hearing else ""
        self._commit(command.item or self._script.name("item"), text)

    def _commit(self, item: str, text: str, *, failed: str | None = None) -> None:
        self.conversation.append(("caller", text))
        self.tell(TurnCommitted(item=item, previous=self._last_item))
        self._last_item = item
        if self.config.transcription is not None:
            self.tell(TurnTranscript(item=item, text="" if failed else text, failed=failed))

    async def _barge_in(self) -> None:
        """Stop what is being said, or wait until the control plane has, which does so where the provider does not."""
        if not self._interruptible or self.config.declaration.interrupt_after_ms > 0:
            return  # it may go on, and if not, the control plane says so
        if self.pair.capabilities.interruption != "server":
            await self._voice.stopped()
        elif (reply := self._voice.reply) is not None:
            self._voice.stop(reply, why="interrupted")

    # --- replies

    def _answer(self, command: Reply | None) -> None:
        results, self._results = self._results, {}
        offered = tuple(tool.target for tool in self.config.tools)
        if command is not None and command.tools is not None:
            offered = command.tools
        heard = next((text for who, text in reversed(self.conversation) if who == "caller"), None)
        asked = Asked(heard, command.instructions if command is not None else None, offered, results)
        given = self._script.next_answer(asked)
        name = command.id if command is not None else None
        if given is None:
            if command is not None:
                self.tell(ProviderFault(code="script_is_over", message="the script has no answer", command=name))
            return
        try:
            answer = answer_of(given, asked)
        except Exception as error:  # noqa: BLE001 - a function of the test may raise anything, and the test is told
            self._script.disagree(f"the script's answer raised {type(error).__name__}: {error}")
            answer = Answer()
        for use in answer.uses:
            if use.listed and use.target not in offered:
                has = ", ".join(offered) or "none"
                self._script.disagree(f"the script uses the tool {use.target}, the model is offered: {has}")
        self._voice.speak(answer.text, name, answer)

    def _use(self, reply: str, answer: Answer) -> None:
        for use in answer.uses:
            call_id = self._script.name("call")
            self._tools[call_id] = use.target
            self.tell(ToolRequested(call_id=call_id, name=use.target, arguments=use.arguments, reply=reply))

    def _result(self, command: SendToolResult) -> None:
        target = self._tools.get(command.call_id, command.call_id)
        self._results[target] = json.loads(command.output)
        self.conversation.append(("tool", command.output))

    def _said(self, text: str) -> None:
        self.conversation.append(("agent", text))

    # --- the end

    def _close(self, event: SessionClosed) -> None:
        if not self.ended:
            self.ended = True
            self._voice.be_quiet()
            self.tell(event)

    def _check_open(self) -> None:
        if self.ended:
            message = f"the call of {self.config.target} is over; the caller can say nothing any more"
            raise AssertionError(message)
