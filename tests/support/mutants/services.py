"""Edits of the provider's skeleton that give its service more: answers by itself, push to talk, tools, silence, interruption."""

from __future__ import annotations

from support.mutants.mutant import Edit

__all__ = [
    "DONE",
    "LIMITS",
    "MANUAL",
    "PUSH_TO_TALK",
    "QUESTION",
    "SILENCES",
    "costs",
    "has",
    "interrupts",
    "model_floor",
    "tools",
]

_FORMATS = 'formats=frozenset({"pcm16/16000"}),'
LIMITS = 'limits=frozenset({"duration", "idle", "turns"}),'
_REFUSED = "            case BeginTurnCommand() | CommitTurnCommand() | ToolResultCommand() | ReplyCommand():\n"
DONE = "return [ReplyTranscript(reply=reply, text=text, final=True), ended]"
_STARTED = 'return [TurnStarted(item=message["id"])]'
_COMMITTED = '        await self._send("turn", id=turn, text=self._service.take_announced())\n'
QUESTION = 'self._tasks.create_task(self._say(None, "That is a good question."))\n'
_START = '_message("start", aloud=self._speaks,'
_ALOUD = 'self._aloud = received["aloud"]\n'
_BYE = '                case "bye":\n'


def has(*fields: str) -> Edit:
    """Return the edit that declares further capabilities."""
    return Edit("plugin", _FORMATS, " ".join((_FORMATS, *fields)))


def model_floor(condition: str = "") -> tuple[Edit, ...]:
    """Return the edits of a service that answers by itself, under a further condition."""
    return (
        Edit("plugin", 'floors=frozenset({"handler"})', 'floors=frozenset({"handler", "model"})'),
        Edit(
            "protocol",
            _START,
            f'{_START} itself=config.declaration.floor == "model", manual=config.turn_detection is None,',
        ),
        Edit(
            "peer",
            _ALOUD,
            f'{_ALOUD}                    self._itself, self._manual = received["itself"], received["manual"]\n',
        ),
        Edit("peer", _COMMITTED, f"{_COMMITTED}        if self._itself{condition}:\n            {QUESTION}"),
    )


PUSH_TO_TALK = (
    Edit("plugin", 'frozenset({"server_vad"})', 'frozenset({"server_vad", "manual"})'),
    Edit(
        "protocol",
        _REFUSED,
        '            case CommitTurnCommand():\n                return _message("commit")\n'
        "            case BeginTurnCommand() | ToolResultCommand() | ReplyCommand():\n",
    ),
    Edit("peer", _BYE, f'                case "commit":\n                    await self._commit()\n{_BYE}'),
    Edit(
        "peer",
        "if self._turn and self._silence >= _SILENCE:",
        "if self._turn and self._silence >= _SILENCE and not self._manual:",
    ),
)
MANUAL = (
    Edit("protocol", _START, f"{_START} manual=config.turn_detection is None,"),
    Edit("peer", _ALOUD, f'{_ALOUD}                    self._manual = received["manual"]\n'),
)


def tools(*after: str) -> tuple[Edit, ...]:
    """Return the edits of a service with tools; `after` are statements that run when it gets a result."""
    follow_up = "".join(f"                    {statement}\n" for statement in after) or "                    pass\n"
    return (
        Edit("plugin", LIMITS, 'limits=frozenset({"duration", "idle", "turns", "tool_calls"}), tools="sync",'),
        Edit(
            "protocol", "            case ReplyCommand() if not command.tools:\n", "            case ReplyCommand():\n"
        ),
        Edit(
            "protocol",
            _REFUSED,
            '            case ToolResultCommand():\n                return _message("result", output=command.output)\n'
            "            case BeginTurnCommand() | CommitTurnCommand():\n",
        ),
        Edit(
            "protocol",
            '            case "error":\n',
            '            case "call" if reply in self._replies:\n'
            '                call = {each: message[each] for each in ("call_id", "name", "arguments")}\n'
            "                return [ToolRequested(reply=reply, **call)]\n"
            '            case "error":\n',
        ),
        Edit("protocol", "    SessionReady,\n", "    SessionReady,\n    ToolRequested,\n"),
        Edit("protocol", 'message["text"], stopped=', 'message["text"], tools=message["tools"], stopped='),
        Edit("protocol", "text: str, *, stopped: bool)", "text: str, *, tools: int, stopped: bool)"),
        Edit("protocol", "audio=self._speaks)", "audio=self._speaks, tools=tools)"),
        Edit(
            "peer",
            '        raise NotImplementedError(f"no tools here: {target}({arguments})")\n',
            "        self.calls.append((target, arguments))\n",
        ),
        Edit("peer", "        self._secret = secret\n", "        self._secret = secret\n        self.calls = []\n"),
        Edit("peer", "        spoken: list[str] = []\n", f"        spoken: list[str] = []\n{_CALLS}"),
        Edit("peer", "stopped=not whole)", "stopped=not whole, tools=calls)"),
        Edit("peer", _BYE, f'                case "result":\n{follow_up}{_BYE}'),
    )


_CALLS = """\
        calls = len(self._service.calls)
        for name, arguments in self._service.calls:
            call_id = self._service.new_id("call")
            await self._send("call", reply=reply, call_id=call_id, name=name, arguments=arguments)
        self._service.calls.clear()
"""
SILENCES = (
    *model_floor(" and not self._service.silences"),
    Edit("peer", QUESTION, f"{QUESTION}        elif self._itself:\n            await self._be_silent(turn)\n"),
    Edit("peer", "        self._secret = secret\n", "        self._secret = secret\n        self.silences = 0\n"),
    Edit(
        "peer",
        "    def refuse(self,",
        "    def prepare_silence(self):\n        self.silences += 1\n\n    def refuse(self,",
    ),
    Edit(
        "peer",
        "    async def _commit(self)",
        "    async def _be_silent(self, turn):\n        self._service.silences -= 1\n"
        '        await self._send("silent", id=turn)\n\n    async def _commit(self)',
    ),
)


def interrupts(patient: bool) -> tuple[Edit, ...]:
    """Return the edits of a service that stops its speech by itself, or waits for the time that a session names."""
    told = "config.declaration.interrupt_after_ms > 0" if patient else "False"
    return (
        Edit("plugin", 'interruption="client"', 'interruption="server"'),
        Edit("protocol", _START, f"{_START} patient={told},"),
        Edit(
            "protocol",
            _STARTED,
            'stopped = () if message["patient"] else self._replies\n                return [TurnStarted(item=message["id"]), '
            '*(Interrupted(reply=each, method="provider") for each in stopped)]',
        ),
        Edit("protocol", "    Event,\n", "    Event,\n    Interrupted,\n"),
        Edit("peer", _ALOUD, f'{_ALOUD}                    self._patient = received["patient"]\n'),
        Edit(
            "peer",
            '            await self._send("speaking", id=self._turn)\n',
            "            for stopped in () if self._patient else self._speech.values():\n                stopped.set()\n"
            '            await self._send("speaking", id=self._turn, patient=self._patient)\n',
        ),
    )


def costs(cost: str) -> tuple[Edit, ...]:
    """Return the edits of a service that reports usage."""
    usage = f'UsageReported(kind="reply", reply=reply, usage=Usage(output_text_tokens=1, cost={cost}))'
    return (
        Edit("protocol", DONE, f"{DONE[:-1]}, {usage}]"),
        Edit("protocol", "    TurnTranscript,\n)", "    TurnTranscript,\n    Usage,\n    UsageReported,\n)"),
    )
