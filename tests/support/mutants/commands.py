"""Mutants of the provider's commands: ignored, changed, taken silently, slow, after the end."""

from __future__ import annotations

from support.mutants.mutant import Edit, Mutant

__all__ = ["COMMANDS"]

_REFUSED = "            case BeginTurnCommand() | CommitTurnCommand() | ToolResultCommand() | ReplyCommand():\n"
_SEND = "        message = self._protocol.encode(command)\n"
_ASYNCIO = (
    "adapter",
    "from collections.abc import AsyncIterator",
    "import asyncio\nimport time\nfrom collections.abc import AsyncIterator",
)


def _mutant(name: str, fault: str, test: str, says: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, fault, test, says, tuple(Edit(*edit) for edit in edits))


COMMANDS = (
    _mutant(
        "wordy",
        "words are added to a say",
        "test_a_say_is_spoken",
        "say is exact, but the spoken text is 'Sure! Your order was found.'",
        (
            "protocol",
            "text=command.text)\n            case ReplyCommand()",
            'text=f"Sure! {command.text}")\n            case ReplyCommand()',
        ),
    ),
    _mutant(
        "takes_commits",
        "`CommitTurnCommand` is taken and lost",
        "test_push_to_talk",
        "turn_detection lacks 'manual', so send(CommitTurnCommand) must raise CapabilityMissing; it was taken and is lost",
        (
            "protocol",
            _REFUSED,
            "            case CommitTurnCommand():\n                return None\n            case ToolResultCommand() | ReplyCommand():\n",
        ),
    ),
    _mutant(
        "takes_tools",
        "a reply with tools is taken without them",
        "test_tool_calls_round_trip",
        "tools is 'none', so send(ReplyCommand) must raise CapabilityMissing; it was taken and is lost",
        ("protocol", "            case ReplyCommand() if not command.tools:\n", "            case ReplyCommand():\n"),
        ("protocol", _REFUSED, "            case BeginTurnCommand() | CommitTurnCommand() | ToolResultCommand():\n"),
    ),
    _mutant(
        "takes_results",
        "the result of a tool is taken and lost",
        "test_tool_calls_round_trip",
        "tools is 'none', so send(ToolResultCommand) must raise CapabilityMissing; it was taken and is lost",
        (
            "protocol",
            _REFUSED,
            "            case ToolResultCommand():\n                return None\n            case CommitTurnCommand() | ReplyCommand():\n",
        ),
    ),
    _mutant(
        "raises_others",
        "an unsupported command is a `ValueError`",
        "test_push_to_talk",
        "it raised ValueError('no'). Errors of an adapter are those of agentfield.errors",
        (
            "protocol",
            _REFUSED,
            '            case CommitTurnCommand():\n                raise ValueError("no")\n            case ToolResultCommand() | ReplyCommand():\n',
        ),
    ),
    _mutant(
        "any_format",
        "any audio format is taken",
        "test_formats_match_the_manifest",
        "open() took an audio format that is not one of `formats`: raise CapabilityMissing",
        ("adapter", "        if audio != _FORMAT:\n", "        if audio is None:\n"),
    ),
    _mutant(
        "drops_text",
        "typed text is dropped",
        "test_text_input",
        "typed text did not reach the provider",
        ("protocol", 'return _message("text", role=command.role, text=command.text)', "return None"),
    ),
    _mutant(
        "drops_own_words",
        "what the agent said before is not given to a new session",
        "test_resumption",
        "walnut8824 did not reach the provider",
        (
            "protocol",
            'return _message("text", role=command.role, text=command.text)',
            'return None if command.role == "assistant" else _message("text", role=command.role, text=command.text)',
        ),
    ),
    _mutant(
        "ignores_cancel",
        "`CancelReplyCommand` is ignored",
        "test_a_reply_is_cancelled",
        "the reply was generated to its end: stop it at the provider",
        ("protocol", 'return _message("stop", reply=command.reply)', "return None"),
    ),
    _mutant(
        "ignores_end",
        "`EndCommand` is ignored",
        "test_commands_after_the_end_are_refused",
        "the events end after EndCommand: end the session at the provider, then emit SessionClosed",
        ("protocol", 'return _message("bye")', "return None"),
    ),
    _mutant(
        "takes_after_end",
        "a command after the end is taken and lost",
        "test_commands_after_the_end_are_refused",
        "the session has ended, so send(ReplyCommand) must raise ProviderUnavailable; it was taken and is lost",
        (
            "adapter",
            '        if self._ending or self._socket.closed:\n            raise ProviderUnavailable(f"the session with {self._endpoint.title} has ended.", hint="start another one")\n',
            "        if self._ending or self._socket.closed:\n            return\n",
        ),
    ),
    _mutant(
        "naps_in_send",
        "`send` sleeps before each command",
        "test_audio_is_sent_faster_than_it_is_spoken",
        "so each call would lag more and more. send returns once a command is written",
        _ASYNCIO,
        ("adapter", _SEND, f"        await asyncio.sleep(0.08)\n{_SEND}"),
    ),
    _mutant(
        "blocks_in_send",
        "`send` blocks the event loop before each command",
        "test_audio_is_sent_faster_than_it_is_spoken",
        "so each call would lag more and more. send returns once a command is written",
        _ASYNCIO,
        ("adapter", _SEND, f"        time.sleep(0.08)\n{_SEND}"),
    ),
    _mutant(
        "waits_in_send",
        "`send` waits until a say is done",
        "test_a_say_is_spoken",
        "send(SayCommand) returns once it is sent, not when it is done: not within",
        _ASYNCIO,
        ("adapter", _SEND, f'        if command.type == "say":\n            await asyncio.sleep(60)\n{_SEND}'),
    ),
    _mutant(
        "hangs_in_send",
        "`send` never returns",
        "test_text_input",
        "send(AddTextCommand) returns once it is sent, not when it is done: not within",
        _ASYNCIO,
        (
            "adapter",
            _SEND,
            f'        if command.type == "add_text":\n            await asyncio.Event().wait()\n{_SEND}',
        ),
    ),
)
