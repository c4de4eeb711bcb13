"""One session at the scripted provider: says what the caller says, speaks silence of the right length, forgets nothing."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
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
    Interrupted,
    PlayoutCleared,
    PlayoutStarted,
    PlayoutStopped,
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionClosed,
    ToolRequested,
    TurnCommitted,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
)
from agentfield.testing.answers import Answer, Asked, answer_of

if TYPE_CHECKING:
    from agentfield.testing.scripted import Scripted

__all__ = ["ScriptedCall"]

_MAX_EVENTS = 10_000
_PAUSE_WAIT = 10.0
_SETTLE = 0.3
"""Seconds by which a bridge may be behind with audio that it was given."""
_PIECE_MS = 200
_SILENCE = {"pcm16": b"\x00", "pcmu": b"\xff", "pcma": b"\xd5"}


@dataclass(slots=True)
class _Speech:
    """What is being said."""

    reply: str
    command: str | None
    text: str
    """The words so far."""
    ms: int
    """How long they sound."""
    whole: str
    answer: Answer | None
    began: float
    generating: bool = False
    stands_still: bool = False
    timer: asyncio.TimerHandle | None = None


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
        self._audio = audio
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(_MAX_EVENTS)
        self._hearing: deque[str] = deque()
        self._last_item: str | None = None
        self._interruptible = True
        self._broken = False
        self._speech: _Speech | None = None
        self._pauses = deque(script.pauses)
        self._standing = asyncio.Event()
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
                self._speak(self._script.reword(command.text), command.id)
            case Reply():
                self._answer(command)
            case CancelReply():
                self._stop(command.reply, why="asked")
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
        self._be_quiet()
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
        item = self.begins()
        return self.finishes(item, text, failed=failed)

    def begins(self) -> str:
        """Let the caller begin to speak, over the agent if it speaks; returns the item of the turn."""
        self._check_open()
        item = self._script.name("item")
        if self._listens:
            self.tell(TurnStarted(item=item))
            self._barge_in()
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
        self._pauses.append(after)

    async def still(self) -> None:
        """Wait until the speech stands still that is to; when none is, return at once.

        Raises:
            AssertionError: It never came to that.
        """
        if not self._pauses:
            return
        waiting = self._pauses[0]
        try:
            async with asyncio.timeout(_PAUSE_WAIT):
                await self._standing.wait()
        except TimeoutError:
            self._script.disagree(f"nothing was said that holds {waiting!r}, after which the caller was to speak")
            self._script.verify()
        self._standing.clear()
        self._pauses.popleft()

    async def go_on(self) -> None:
        """Let the speech that stands still go on to its end.

        Raises:
            AssertionError: There is none.
        """
        await self.still()
        speech = self._speech
        if speech is None or not speech.stands_still:
            self._script.disagree("nothing stands still that could go on")
            self._script.verify()
            return
        speech.stands_still = False
        heard, whole = speech.ms, self._script.length(speech.whole)
        speech.ms, speech.text = whole, speech.whole
        if self._audio is None:
            loop = asyncio.get_running_loop()
            speech.began = loop.time() - heard / 1000
            speech.timer = loop.call_later((whole - heard) / 1000, self._heard, speech)
        else:
            speech.generating = False
            self._generate(speech, heard, whole)
            self._end(speech)
            self._said(speech)

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

    def _barge_in(self) -> None:
        if self.pair.capabilities.interruption != "server" or self.config.declaration.interrupt_after_ms > 0:
            return  # the control plane stops the reply
        if self._speech is not None and self._interruptible:
            self._stop(self._speech.reply, why="interrupted")

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
        answer = answer_of(given, asked)
        for use in answer.uses:
            if use.listed and use.target not in offered:
                has = ", ".join(offered) or "none"
                self._script.disagree(f"the script uses the tool {use.target}, the model is offered: {has}")
        self._speak(answer.text, name, answer)

    def _speak(self, text: str, command: str | None, answer: Answer | None = None) -> None:
        self._be_quiet()
        self._speech = None
        reply = self._script.name("reply")
        self.tell(ReplyStarted(reply=reply, command=command))
        if not text:
            self._end(_Speech(reply, command, "", 0, "", answer, 0.0))
            return
        spoilt = self._script.spoiled(text)
        pause = None if spoilt else self._paused(text)
        got_to = spoilt[0] if spoilt else pause
        # where the control plane carries the audio, speech stands still because no more of it is generated
        cut_short = spoilt is not None or (pause is not None and self._audio is not None)
        words = text[:got_to] if cut_short else text
        ms = self._script.length(text)
        up_to = ms if got_to is None else -(-ms * got_to // len(text))
        speech = _Speech(reply, command, words, up_to, text, answer, asyncio.get_running_loop().time())
        speech.stands_still, speech.generating = pause is not None, cut_short
        self._speech = speech
        if self._audio is None:
            self.tell(PlayoutStarted(reply=reply))
        self._generate(speech, 0, up_to if cut_short else ms)
        if spoilt is not None:
            self._fail(speech, spoilt[1])
            return
        if not cut_short:
            self._end(speech)
        self._time(speech)

    def _generate(self, speech: _Speech, start: int, end: int) -> None:
        """Let the words come, and the audio from one millisecond to another."""
        self.tell(ReplyTranscript(reply=speech.reply, text=speech.text, final=not speech.generating))
        if self._audio is None:
            return
        silence = _SILENCE.get(self._audio.codec, b"\x00")
        for at in range(start, end, _PIECE_MS):
            self.tell(ReplyAudio(reply=speech.reply, data=silence * self._audio.size(min(_PIECE_MS, end - at))))

    def _end(self, speech: _Speech) -> None:
        """Let the generation end, with the tools that the answer uses."""
        answer, text = speech.answer or Answer(), speech.whole
        self._use(speech.reply, answer)
        ended = ReplyEnded(reply=speech.reply, command=speech.command, tools=len(answer.uses), usage=answer.usage)
        if text:
            told = {"text": text, "audio": True, "audio_ms": self._script.length(text)}
            ended = ended.model_copy(update=told)
        self.tell(ended)

    def _paused(self, text: str) -> int | None:
        """Return up to where a text is spoken before it stands still."""
        if not self._pauses or self._standing.is_set() or self._pauses[0] not in text:
            return None
        return text.index(self._pauses[0]) + len(self._pauses[0])

    def _use(self, reply: str, answer: Answer) -> None:
        for use in answer.uses:
            call_id = self._script.name("call")
            self._tools[call_id] = use.target
            self.tell(ToolRequested(call_id=call_id, name=use.target, arguments=use.arguments, reply=reply))

    def _result(self, command: SendToolResult) -> None:
        target = self._tools.get(command.call_id, command.call_id)
        self._results[target] = json.loads(command.output)
        self.conversation.append(("tool", command.output))

    def _time(self, speech: _Speech) -> None:
        """Let time pass while it is heard."""
        loop = asyncio.get_running_loop()
        if speech.stands_still:
            later = speech.ms / 1000 + (_SETTLE if self._audio is not None else 0.0)
            speech.timer = loop.call_later(later, self._standing.set)
        elif self._audio is None:
            speech.timer = loop.call_later(speech.ms / 1000, self._heard, speech)
        else:
            self._said(speech)  # the bridge plays it, and knows when it was heard

    def _heard(self, speech: _Speech) -> None:
        self.tell(PlayoutStopped(reply=speech.reply, method="provider"))
        self._said(speech)

    def _said(self, speech: _Speech) -> None:
        self.conversation.append(("agent", speech.text))
        self._speech = None

    def _fail(self, speech: _Speech, code: str) -> None:
        self._said(speech)
        ended = ReplyEnded(reply=speech.reply, command=speech.command, status="failed", why=code, text=speech.text)
        self.tell(ended.model_copy(update={"audio": True}))

    def _stop(self, reply: str, *, why: str) -> None:
        """Stop what is being said, and tell how much of it was heard."""
        speech = self._speech
        if speech is None or speech.reply != reply:
            return
        heard = self._heard_ms(speech)
        self._be_quiet()
        self._said(speech)
        if speech.generating:
            ended = ReplyEnded(reply=reply, command=speech.command, status="cancelled", why=why, text=speech.text)
            self.tell(ended.model_copy(update={"audio": True, "audio_ms": speech.ms}))
        if self._audio is None:
            self.tell(Interrupted(reply=reply, heard_ms=heard, method="provider"), PlayoutCleared(reply=reply))

    def _heard_ms(self, speech: _Speech) -> int:
        if speech.stands_still:
            return speech.ms
        passed = asyncio.get_running_loop().time() - speech.began
        return min(speech.ms, int(passed * 1000))

    def _be_quiet(self) -> None:
        if self._speech is not None and self._speech.timer is not None:
            self._speech.timer.cancel()

    # --- the end

    def _close(self, event: SessionClosed) -> None:
        if not self.ended:
            self.ended = True
            self._be_quiet()
            self.tell(event)

    def _check_open(self) -> None:
        if self.ended:
            message = f"the call of {self.config.target} is over; the caller can say nothing any more"
            raise AssertionError(message)
