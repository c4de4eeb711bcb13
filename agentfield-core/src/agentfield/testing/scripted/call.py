"""One session at the scripted provider: it plays the caller and the model, and keeps the commands that it is given."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol

from agentfield.errors import ProviderUnavailable
from agentfield.plugins import PairSpec
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    CancelReplyCommand,
    Command,
    CommitTurnCommand,
    EndCommand,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
    UpdateCommand,
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
from agentfield.testing.scripted.answers import AnswerLike, ModelRequest, ScriptedAnswer, resolve_answer
from agentfield.testing.scripted.voice import ScriptedVoice, VoiceScript

__all__ = ["CallScript", "ScriptedCall"]

_MAX_EVENTS = 10_000


class CallScript(VoiceScript, Protocol):
    """What a call needs from its script (`ScriptedProvider`)."""

    @property
    def initial_pauses(self) -> list[str]:
        """Texts after which the first speech of the call pauses."""

    def next_answer(self, request: ModelRequest) -> AnswerLike | None:
        """Return the next answer of the model, None when the script has none."""


class ScriptedCall:
    """A session at the scripted provider (`agentfield.realtime.provider.ProviderSession`).

    Args:
        script: The provider.
        config: The session's frozen configuration.
        pair: The session's row of the matrix.
        audio: The format of both directions, None where the media does not pass through the control plane.
    """

    def __init__(self, script: CallScript, config: SessionConfig, pair: PairSpec, audio: AudioFormat | None) -> None:
        self.config = config
        self.pair = pair
        self.commands: list[Command] = []
        """All commands in order."""
        self.conversation: list[tuple[str, str]] = []
        """The conversation as the model knows it: pairs of a speaker (``caller``, ``agent``, ``tool``) and a text."""
        self.ended = False
        self._script = script
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(_MAX_EVENTS)
        self._recordings: deque[str] = deque()
        self._last_item: str | None = None
        self._interruptible = True
        self._dropped = False
        self._voice = ScriptedVoice(
            script,
            audio,
            emit=self.emit,
            use_tools=self._use_tools,
            on_spoken=self._add_spoken,
            pauses=script.initial_pauses,
        )
        self._tools: dict[str, str] = {}
        self._results: dict[str, Any] = {}

    # --- ProviderSession

    async def send(self, command: Command) -> None:
        """Execute `command` as the script says.

        Raises:
            ProviderUnavailable: The connection was dropped.
        """
        if self._dropped:
            raise ProviderUnavailable("the scripted line was dropped")
        self.commands.append(command)
        match command:
            case SayCommand():
                self._voice.speak(self._script.reword(command.text), command.id, ScriptedAnswer())
            case ReplyCommand():
                self._answer(command)
            case CancelReplyCommand():
                self._voice.stop(command.reply, why="asked")
            case CommitTurnCommand():
                self._commit_recording(command)
            case AddTextCommand():
                self.conversation.append(("agent" if command.role == "assistant" else "caller", command.text))
            case ToolResultCommand():
                self._add_result(command)
            case UpdateCommand():
                self._interruptible = command.interruptible
            case EndCommand():
                self._close(SessionClosed(reason="closed"))
            case AppendAudioCommand():
                pass

    async def events(self) -> AsyncIterator[Event]:
        """Yield events in order, the last of which is `SessionClosed`."""
        while (event := await self._events.get()) is not None:
            yield event
            if isinstance(event, SessionClosed):
                return

    async def close(self) -> None:
        """Close the session; idempotent."""
        self.ended = True
        self._voice.cancel_timer()
        self._events.put_nowait(None)

    # --- what the test lets happen

    def emit(self, *events: Event) -> None:
        """Emit any events, in this order."""
        for event in events:
            self._events.put_nowait(event)

    async def says(self, text: str, *, failed: str | None = None, pause: str | None = None) -> str:
        """Let the caller say something.

        Speech with a pause is awaited until it pauses; the caller speaks over it.

        Args:
            text: The caller's words.
            failed: Why the provider has no transcript of them, None when it has one.
            pause: Pause the next speech once the caller has heard this text of it, see `pause_after`.

        Returns:
            The item of the turn.

        Raises:
            AssertionError: The call has ended, or the speech never reached its pause.
        """
        await self.wait_paused()
        if pause is not None:
            self.pause_after(pause)
        item = await self.starts_speaking()
        return self.stops_speaking(item, text, failed=failed)

    async def starts_speaking(self) -> str:
        """Let the caller start to speak, over the agent if it speaks; return the item of the turn.

        On return a paused speech has been stopped, if anything stops it.
        """
        self._check_open()
        item = self._script.new_id("item")
        if self._detects_turns:
            self.emit(TurnStarted(item=item, before_live=False))
            await self._barge_in()
        return item

    def stops_speaking(self, item: str, text: str, *, failed: str | None = None) -> str:
        """End the turn that `starts_speaking` started; on the model's floor the model answers."""
        self._check_open()
        if self._detects_turns:
            self.emit(TurnStopped(item=item))
        self._commit(item, text, failed=failed)
        if self._detects_turns and self._interruptible and self.config.declaration.floor == "model":
            self._answer(None)
        return item

    def pause_after(self, text: str) -> None:
        """Pause the next speech that contains `text` once the caller has heard that text, until it is stopped or resumed."""
        self._voice.pause_after(text)

    async def wait_paused(self) -> None:
        """Wait until the speech with the next pause has paused; return at once when there is no pause.

        Raises:
            AssertionError: The speech never reached its pause.
        """
        await self._voice.wait_paused()

    async def resume(self) -> None:
        """Resume the paused speech; it runs to its end.

        Raises:
            AssertionError: No speech is paused.
        """
        await self._voice.resume()

    @property
    def pending_pauses(self) -> list[str]:
        """Texts of the pauses that no speech has reached."""
        return self._voice.pending_pauses

    def queue_recording(self, text: str) -> None:
        """Queue the transcript of the next recording that the caller commits."""
        self._recordings.append(text)

    def hangs_up(self) -> None:
        """Let the caller hang up where the provider notices it."""
        self._close(SessionClosed(reason="closed"))

    def drops(self, message: str = "the line broke") -> None:
        """Drop the connection to the provider; the session may be opened or attached to again."""
        self._dropped = True
        self._close(SessionClosed(reason="provider_error", message=message, retry=True))

    def expires(self) -> None:
        """Let the provider end the session at its maximum duration."""
        self._close(SessionClosed(reason="provider_expired"))

    def fails(self, code: str, message: str = "the scripted provider failed", *, fatal: bool = False) -> None:
        """Let the provider report an error."""
        self.emit(ProviderFault(code=code, message=message, fatal=fatal))

    # --- turns

    @property
    def _detects_turns(self) -> bool:
        """Whether the provider detects the caller's turns itself."""
        return self.config.turn_detection is not None and self.pair.media != "turns"

    def _commit_recording(self, command: CommitTurnCommand) -> None:
        if not self._recordings:
            self._script.report_mismatch("the caller sent a recording and the script does not say what was said in it")
        text = self._recordings.popleft() if self._recordings else ""
        self._commit(command.item or self._script.new_id("item"), text)

    def _commit(self, item: str, text: str, *, failed: str | None = None) -> None:
        self.conversation.append(("caller", text))
        self.emit(TurnCommitted(item=item, previous=self._last_item))
        self._last_item = item
        if self.config.transcription is not None:
            self.emit(TurnTranscript(item=item, text="" if failed else text, failed=failed))

    async def _barge_in(self) -> None:
        """Stop the current speech, or wait until the control plane has stopped it where the provider does not."""
        if not self._interruptible or self.config.declaration.interrupt_after_ms > 0:
            return  # the speech may continue; the control plane cancels it if not
        if self.pair.capabilities.interruption != "server":
            await self._voice.wait_stopped()
        elif (reply := self._voice.reply) is not None:
            self._voice.stop(reply, why="interrupted")

    # --- replies

    def _answer(self, command: ReplyCommand | None) -> None:
        results, self._results = self._results, {}
        offered = tuple(tool.target for tool in self.config.tools)
        if command is not None and command.tools is not None:
            offered = command.tools
        heard = next((text for speaker, text in reversed(self.conversation) if speaker == "caller"), None)
        request = ModelRequest(heard, command.instructions if command is not None else None, offered, results)
        scripted = self._script.next_answer(request)
        command_id = command.id if command is not None else None
        if scripted is None:
            if command is not None:
                self.emit(ProviderFault(code="script_is_over", message="the script has no answer", command=command_id))
            return
        try:
            answer = resolve_answer(scripted, request)
        except Exception as error:  # noqa: BLE001 - an answer function may raise anything; verify() raises it in the test
            self._script.report_mismatch(f"the script's answer raised {type(error).__name__}: {error}")
            answer = ScriptedAnswer()
        for use in answer.uses:
            if use.listed and use.target not in offered:
                names = ", ".join(offered) or "none"
                self._script.report_mismatch(f"the script uses the tool {use.target}, the model is offered: {names}")
        self._voice.speak(answer.text, command_id, answer)

    def _use_tools(self, reply: str, answer: ScriptedAnswer) -> None:
        for use in answer.uses:
            call_id = self._script.new_id("call")
            self._tools[call_id] = use.target
            self.emit(ToolRequested(call_id=call_id, name=use.target, arguments=use.arguments, reply=reply))

    def _add_result(self, command: ToolResultCommand) -> None:
        target = self._tools.get(command.call_id, command.call_id)
        self._results[target] = json.loads(command.output)
        self.conversation.append(("tool", command.output))

    def _add_spoken(self, text: str) -> None:
        self.conversation.append(("agent", text))

    # --- the end

    def _close(self, event: SessionClosed) -> None:
        if not self.ended:
            self.ended = True
            self._voice.cancel_timer()
            self.emit(event)

    def _check_open(self) -> None:
        if self.ended:
            message = f"the call of {self.config.target} is over; the caller can say nothing any more"
            raise AssertionError(message)
