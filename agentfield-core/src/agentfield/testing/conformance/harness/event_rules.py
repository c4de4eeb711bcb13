"""Rules that hold for the events of every session, checked after every test: which events, in which order, under which ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agentfield.plugins import Capabilities
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AddTextCommand, Command, ReplyCommand, SayCommand
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Dtmf,
    Event,
    Interrupted,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionClosed,
    SessionReady,
    SessionResumable,
    ToolCancelled,
    ToolRequested,
    TurnCommitted,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
    TurnUnanswered,
    UsageReported,
)

__all__ = ["broken_rule"]

_TURN_ORDER: tuple[type[Event], ...] = (TurnStarted, TurnStopped, TurnCommitted)
_REPLY_PARTS = (ReplyAudio, ReplyTranscript, ToolRequested)


def broken_rule(
    events: Sequence[Event],
    commands: Sequence[Command],
    *,
    config: SessionConfig,
    can: Capabilities,
    audio: AudioFormat | None,
) -> str | None:
    """Return the first rule that the events of a session break, as a text for the plugin's author; None if there is none.

    Args:
        events: All events of the session, in order.
        commands: The commands that it was sent.
        config: Its configuration.
        can: The capabilities of the pair.
        audio: The format of carried audio, None on direct media.
    """
    checks = (
        _session(events),
        _ready(events, config, can),
        _turns(events, detected=config.turn_detection is not None),
        _transcripts(events),
        _replies(events, commands, asks=config.declaration.floor == "handler"),
        _parts(events, can, audio),
        _silences(events, commands),
    )
    return next((broken for check in checks for broken in check), None)


def _session(events: Sequence[Event]) -> Iterator[str]:
    kinds = [type(each) for each in events]
    if kinds.count(SessionClosed) > 1:
        yield f"SessionClosed occurs {kinds.count(SessionClosed)} times: emit it once, as the last event"
    if SessionClosed in kinds and kinds[-1] is not SessionClosed:
        yield f"{kinds[-1].__name__} follows SessionClosed: emit nothing after it"
    talk = next((at for at, kind in enumerate(kinds) if kind in (TurnStarted, TurnCommitted, ReplyStarted)), None)
    if talk is not None and SessionReady not in kinds[:talk]:
        yield (
            f"{kinds[talk].__name__} comes before SessionReady: emit SessionReady first, as soon as the provider has "
            "opened the session; the control plane compares its model with the requested one"
        )


def _ready(events: Sequence[Event], config: SessionConfig, can: Capabilities) -> Iterator[str]:
    for ready in (each for each in events if isinstance(each, SessionReady)):
        for name, asked, given in (("model", config.model, ready.model), ("voice", config.voice, ready.voice)):
            if name not in can.echoes and given is not None:
                yield f"SessionReady.{name} is {given!r}, although echoes lacks {name!r}: report only what the provider repeats"
            elif name in can.echoes and asked is not None and given != asked:
                yield (
                    f"SessionReady.{name} is {given!r}, and the session asked for {asked!r}: pass on what the provider repeats, "
                    f"or take {name!r} out of `echoes` where it repeats nothing. The control plane compares them"
                )


def _turns(events: Sequence[Event], *, detected: bool) -> Iterator[str]:
    for item, of in _by(events, "item", (*_TURN_ORDER, TurnTranscript)).items():
        kinds = [type(each) for each in of]
        committed = next((each for each in of if isinstance(each, TurnCommitted)), None)
        for kind in _TURN_ORDER:
            if kinds.count(kind) > 1:
                yield f"turn {item} has {kind.__name__} {kinds.count(kind)} times: ignore a provider's repetitions, and give each turn an id of its own"
        if committed is None:
            continue
        if detected and committed.text is None and TurnStarted not in kinds:
            yield (
                f"turn {item} is committed and has no TurnStarted: emit TurnStarted(item=...) when the caller begins to "
                "speak. Without it the agent speaks on over its caller"
            )
        for number, kind in enumerate(_TURN_ORDER):
            for later in _TURN_ORDER[number + 1 :]:
                if kind in kinds and later in kinds and kinds.index(later) < kinds.index(kind):
                    yield (
                        f"turn {item} has {later.__name__} before {kind.__name__}: the order of a turn is TurnStarted, "
                        "TurnStopped, TurnCommitted, then the final TurnTranscript"
                    )


def _transcripts(events: Sequence[Event]) -> Iterator[str]:
    for item, of in _by(events, "item", (TurnCommitted, TurnTranscript)).items():
        final = [at for at, each in enumerate(of) if isinstance(each, TurnTranscript) and each.final]
        if len(final) > 1:
            yield f"turn {item} has {len(final)} final transcripts: pieces have final=False, the complete text comes once"
        if final and any(isinstance(each, TurnTranscript) for each in of[final[0] + 1 :]):
            yield f"turn {item} has a partial transcript after the final one: the final one is the last"
        if final and any(isinstance(each, TurnCommitted) for each in of[final[0] + 1 :]):
            yield (
                f"turn {item} has its final TurnTranscript before TurnCommitted: hold the transcript back until the turn is "
                "committed"
            )


def _replies(events: Sequence[Event], commands: Sequence[Command], *, asks: bool) -> Iterator[str]:
    asked = {command.id for command in commands if isinstance(command, SayCommand | ReplyCommand)}
    for reply, of in _by(events, "reply", (ReplyStarted, ReplyEnded, *_REPLY_PARTS)).items():
        kinds = [type(each) for each in of]
        if kinds.count(ReplyStarted) != 1 or kinds[0] is not ReplyStarted:
            yield f"reply {reply} does not begin with one ReplyStarted, but with {kinds[0].__name__}"
            continue
        if kinds.count(ReplyEnded) > 1:
            yield f"reply {reply} has ReplyEnded {kinds.count(ReplyEnded)} times: ignore a provider's repetitions"
        if ReplyEnded in kinds and kinds[-1] is not ReplyEnded:
            yield (
                f"reply {reply} has {kinds[-1].__name__} after its ReplyEnded: ReplyEnded is the last event of a reply's "
                "generation; drop what the provider sends later"
            )
        started = next(each for each in of if isinstance(each, ReplyStarted))
        ended = next((each for each in of if isinstance(each, ReplyEnded)), None)
        if started.command is not None and started.command not in asked:
            yield f"reply {reply} has command={started.command!r}, which is the id of no SayCommand or ReplyCommand"
        if started.command is None and asks:
            yield (
                f"reply {reply} has no command on the handler's floor: there the model speaks only when it is asked, and the reply "
                "repeats the id of the SayCommand or ReplyCommand"
            )
        if ended is None:
            continue
        if ended.command != started.command:
            yield f"reply {reply} starts with command={started.command!r} and ends with command={ended.command!r}"
        calls = kinds.count(ToolRequested)
        if ended.tools != calls:
            yield f"reply {reply} has {calls} ToolRequested, and its ReplyEnded says tools={ended.tools}"
        pieces = "".join(each.text for each in of if isinstance(each, ReplyTranscript) and not each.final)
        if pieces and ended.status == "completed" and pieces.strip() != (ended.text or "").strip():
            yield (
                f"the pieces of the transcript of reply {reply} are {pieces!r} together, and its text is {ended.text!r}: "
                "each piece is only what is new"
            )


def _parts(events: Sequence[Event], can: Capabilities, audio: AudioFormat | None) -> Iterator[str]:
    known = {each.reply for each in events if isinstance(each, ReplyStarted)}
    calls = [each.call_id for each in events if isinstance(each, ToolRequested)]
    if len(set(calls)) != len(calls):
        yield f"two tool calls have the same call_id: {sorted(calls)}"
    for each in events:
        match each:
            case ReplyAudio() if audio is None:
                yield "ReplyAudio on direct media: its audio does not pass through the control plane"
            case ReplyAudio() if audio is not None and len(each.data) % audio.frame:
                yield f"ReplyAudio of {len(each.data)} bytes ends within a sample of {audio.frame} bytes: keep the rest for the next"
            case Interrupted() if can.interruption != "server":
                yield (
                    f"Interrupted, although interruption is {can.interruption!r}: only a provider that stops its speech by "
                    'itself reports it; declare interruption="server", or do not emit it'
                )
            case Interrupted(reply=reply) if reply not in known:
                yield f"Interrupted names the reply {reply!r}, which never started"
            case ToolCancelled(call_id=call_id) if call_id not in calls:
                yield f"ToolCancelled names the call {call_id!r}, which was never requested"
            case Dtmf(digit=digit) if not can.dtmf:
                yield f"Dtmf of the key {digit!r}, although dtmf is False: declare dtmf=True, or do not emit it"
            case SessionResumable() if can.resumption != "handle":
                yield f'SessionResumable, although resumption is {can.resumption!r}: declare resumption="handle"'
            case UsageReported(reply=str(reply)) if reply not in known:
                yield f"UsageReported names the reply {reply!r}, which never started"


def _silences(events: Sequence[Event], commands: Sequence[Command]) -> Iterator[str]:
    turns = {each.item for each in events if isinstance(each, TurnCommitted)}
    turns |= {each.item for each in commands if isinstance(each, AddTextCommand)}
    for each in events:
        if isinstance(each, TurnUnanswered) and each.item not in turns:
            yield f"TurnUnanswered names the turn {each.item!r}, which was never committed"


def _by(events: Iterable[Event], name: str, kinds: tuple[type[Event], ...]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for each in events:
        if isinstance(each, kinds):
            found.setdefault(getattr(each, name), []).append(each)
    return found
