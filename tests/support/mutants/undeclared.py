"""Mutants that can do more than they declare, and those that declare a behaviour that only a call shows to be missing."""

from __future__ import annotations

from support.mutants.mutant import Edit, Mutant
from support.mutants.services import (
    DONE,
    LIMITS,
    MANUAL,
    PUSH_TO_TALK,
    QUESTION,
    SILENCES,
    costs,
    has,
    interrupts,
    model_floor,
    tools,
)

__all__ = ["UNDECLARED"]

_COMPLETE = "test_the_manifest_is_complete"
_ANSWERS = "test_the_model_answers_after_what_is_declared"
_BEGINS = "test_turns_begin_as_declared"
_SILENT = "test_a_model_may_say_nothing"
_PATIENT = "test_a_short_word_does_not_interrupt"
_USAGE = "test_usage_is_reported"
_DTMF = Edit("plugin", "                    dtmf=True,\n", "")
_TURN = "return [TurnStopped(item=item), TurnCommitted(item=item), TurnTranscript(item=item, text=text)]"


def _mutant(name: str, fault: str, test: str, says: str, *edits: Edit) -> Mutant:
    return Mutant(name, fault, test, says, edits)


UNDECLARED = (
    # --- who asks for an answer
    _mutant(
        "hides_answers",
        "`answers_after`: nothing, and the model answers each turn",
        _ANSWERS,
        "answers_after lacks 'turn', and the model answered by itself after a turn that the provider detected",
        *model_floor(),
        has("answers_after=frozenset(),"),
    ),
    _mutant(
        "lies_answers_commit",
        "`answers_after`: commit too, after which the service waits to be asked",
        _ANSWERS,
        "the model's answer without a command after CommitTurnCommand",
        *model_floor(" and not self._manual"),
        *PUSH_TO_TALK,
        has('answers_after=frozenset({"turn", "commit"}),'),
    ),
    _mutant(
        "hides_answers_commit",
        "`answers_after`: lacks commit, after which the model answers",
        _ANSWERS,
        "answers_after lacks 'commit', and the model answered by itself after CommitTurnCommand",
        *model_floor(),
        *PUSH_TO_TALK,
    ),
    _mutant(
        "lies_answers_result",
        "`answers_after`: tool results too, after which the service waits to be asked",
        _ANSWERS,
        "the model's answer without a command after ToolResultCommand",
        *model_floor(),
        *tools(),
        has('answers_after=frozenset({"turn", "tool_result"}),'),
    ),
    _mutant(
        "hides_answers_result",
        "`answers_after`: lacks tool results, after which the model answers",
        _ANSWERS,
        "answers_after lacks 'tool_result', and the model answered by itself after ToolResultCommand",
        *model_floor(),
        *tools(QUESTION.strip()),
    ),
    _mutant(
        "unasked_answer",
        "an answer on the handler's floor has no command",
        "test_a_reply_is_spoken",
        "has no command on the handler's floor: there the model speaks only when it is asked",
        Edit(
            "protocol",
            'return [ReplyStarted(reply=reply, command=message.get("for"))]',
            "return [ReplyStarted(reply=reply)]",
        ),
    ),
    _mutant(
        "silent_model",
        "`TurnUnanswered` is dropped",
        _SILENT,
        "the model chose to say nothing. Without it the control plane waits",
        *SILENCES,
    ),
    _mutant(
        "silent_elsewhere",
        "`TurnUnanswered` names another turn",
        _SILENT,
        "TurnUnanswered names the turn 'another', which was never committed",
        *SILENCES,
        Edit(
            "protocol",
            '            case "error":\n',
            '            case "silent":\n                return [TurnUnanswered(item="another")]\n            case "error":\n',
        ),
        Edit("protocol", "    TurnTranscript,\n)", "    TurnTranscript,\n    TurnUnanswered,\n)"),
    ),
    _mutant(
        "hides_floor",
        "`floors`: lacks the model's, on which it answers",
        "test_the_model_floor",
        "floors lacks 'model', and the model answers turns by itself on the model's floor",
        *model_floor()[1:],
    ),
    # --- push to talk
    _mutant(
        "hides_manual",
        "`turn_detection`: lacks push to talk, which works",
        "test_push_to_talk",
        "turn_detection lacks 'manual', so send(CommitTurnCommand) must raise CapabilityMissing",
        *MANUAL,
        *PUSH_TO_TALK[1:],
    ),
    _mutant(
        "lies_begins_turns",
        "`begins_turns`: declared, and nobody tells the service",
        _BEGINS,
        "begins_turns is True, and BeginTurnCommand reaches the provider",
        *MANUAL,
        *PUSH_TO_TALK,
        Edit(
            "protocol",
            "            case UpdateCommand():\n",
            "            case UpdateCommand() | BeginTurnCommand():\n",
        ),
        Edit("protocol", "case BeginTurnCommand() | ToolResultCommand()", "case ToolResultCommand()"),
        has("begins_turns=True,"),
    ),
    _mutant(
        "hides_begins",
        "`begins_turns`: not declared, and the service is told",
        _BEGINS,
        "begins_turns is False, and the provider is told of BeginTurnCommand",
        *MANUAL,
        *PUSH_TO_TALK,
        Edit(
            "protocol",
            "            case BeginTurnCommand() | ToolResultCommand()",
            '            case BeginTurnCommand():\n                return _message("begin")\n            case ToolResultCommand()',
        ),
    ),
    # --- interruption and truncation
    _mutant(
        "lies_delays",
        "`delays_interruption`: declared, and a short word interrupts",
        _PATIENT,
        "delays_interruption is set, and a short word stopped the reply",
        *interrupts(patient=False),
        has("delays_interruption=True,"),
    ),
    _mutant(
        "hides_delays",
        "`delays_interruption`: not declared, and a short word passes",
        _PATIENT,
        "delays_interruption is False, and a short word did not stop the reply",
        *interrupts(patient=True),
    ),
    _mutant(
        "hides_truncation",
        "`truncation`: none, and the service is told what was heard",
        "test_undeclared_truncation",
        "truncation is 'none', and the provider is told the heard_ms",
        Edit(
            "protocol",
            '_message("stop", reply=command.reply)',
            '_message("stop", reply=command.reply, heard=command.heard_ms)',
        ),
    ),
    _mutant(
        "hides_uninterruptible",
        "`uninterruptible`: not declared, and nothing stops the speech",
        "test_uninterruptible_speech",
        "uninterruptible is False, UpdateCommand(interruptible=False) is taken, and the caller's speech does not stop the agent's",
        Edit("plugin", "                    uninterruptible=True,\n", ""),
    ),
    _mutant(
        "hides_routing",
        "`routing`: fixed, and another upstream is an error",
        "test_the_route_is_pinned",
        "routing is 'fixed', and an answer of another model or upstream is an error",
        Edit(
            "peer", "    def refuse(self,", "    def reroute(self):\n        self.other = True\n\n    def refuse(self,"
        ),
        Edit("peer", "        self._secret = secret\n", "        self._secret = secret\n        self.other = False\n"),
        Edit("peer", 'reply=reply, **{"for": command})', 'reply=reply, other=self._service.other, **{"for": command})'),
        Edit(
            "protocol",
            '            case "speech" if reply not in self._replies:\n',
            '            case "speech" if message["other"]:\n'
            '                return [ProviderFault(code="other", message="another upstream answers")]\n'
            '            case "speech" if reply not in self._replies:\n',
        ),
    ),
    # --- names
    _mutant(
        "lies_voice",
        "`voices`: two, and only one is ever asked for",
        "test_names_reach_the_provider",
        "SessionReady.voice is 'voice-1', and the session asked for 'voice-2'",
        Edit("plugin", 'known=("voice-1",)', 'known=("voice-1", "voice-2")'),
        Edit("protocol", '"voice": config.voice', '"voice": "voice-1"'),
    ),
    _mutant(
        "lies_transcriber",
        "`default_transcription`: the service never learns the name",
        "test_names_reach_the_provider",
        "no text that the peer received has the transcription 'lies_transcriber-stt'",
        Edit("protocol", ', "transcriber": config.transcription', ""),
    ),
    _mutant(
        "hides_transcriber",
        "`transcription`: own, and the service is told the name of a model",
        "test_no_transcription_model_without_a_declaration",
        "the provider is told the name of a transcription model: declare transcription='model'",
        Edit("plugin", 'default_transcription="hides_transcriber-stt"', 'transcription="own"'),
    ),
    _mutant(
        "lies_url_name",
        "`url_setting`: errors name another setting",
        "test_an_unreachable_provider_is_reported",
        "the error names the setting OTHER_BASE_URL, and the manifest has LIES_URL_NAME_API_KEY and LIES_URL_NAME_BASE_URL",
        Edit(
            "adapter",
            'runtime.key, "LIES_URL_NAME_API_KEY", "LIES_URL_NAME_BASE_URL")',
            'runtime.key, "LIES_URL_NAME_API_KEY", "OTHER_BASE_URL")',
        ),
    ),
    _mutant(
        "lies_key_name",
        "`key_setting`: errors name another setting",
        "test_a_wrong_key_is_refused",
        "the error names the setting OTHER_API_KEY",
        Edit("adapter", 'error.status, "refused")', 'error.status, "refused", hint="check OTHER_API_KEY")'),
    ),
    _mutant(
        "lies_exact",
        "`say`: exact, and the words change",
        "test_exact_words_are_spoken_exactly",
        "'Your order was found.' was requested, 'your order was found.' was spoken",
        Edit("protocol", "id=command.id, text=command.text)", "id=command.id, text=command.text.lower())"),
    ),
    _mutant(
        "lies_text",
        "`text_input`: declared, and typed text is lost",
        "test_text_input",
        "typed text did not reach the provider",
        Edit("protocol", 'return _message("text", role=command.role, text=command.text)', "return None"),
    ),
    _mutant(
        "lies_echo",
        "`echoes`: the model too, which `SessionReady` lacks",
        "test_a_session_opens_and_closes",
        "SessionReady.model is None, and the session asked for 'lies_echo-1'",
        Edit("protocol", 'SessionReady(model=message["model"], ', "SessionReady("),
    ),
    # --- what is had and not declared
    _mutant(
        "hides_tools",
        "`tools`: none, and replies with tools are taken",
        "test_tool_calls_round_trip",
        "tools is 'none', so send(ReplyCommand) must raise CapabilityMissing",
        Edit(
            "protocol", "            case ReplyCommand() if not command.tools:\n", "            case ReplyCommand():\n"
        ),
    ),
    _mutant(
        "hides_pieces",
        "`agent_transcript`: final, and pieces come",
        "test_a_say_is_spoken",
        "agent_transcript is final, but there are partial transcripts",
        Edit("protocol", DONE, f"return [ReplyTranscript(reply=reply, text=text), {DONE[8:]}"),
    ),
    _mutant(
        "hides_text",
        "`modalities`: lacks text, which sessions get",
        "test_undeclared_forms_of_answers",
        "modalities lacks 'text', and a session with modalities=['text'] gets such an answer",
        Edit("plugin", 'modalities=frozenset({"audio", "text"})', 'modalities=frozenset({"audio"})'),
    ),
    _mutant(
        "hides_keys",
        "`dtmf`: not declared, although the transport carries keys",
        _COMPLETE,
        "dtmf is False, and the transport websocket carries keys to the handler of any provider",
        _DTMF,
    ),
    _mutant(
        "hides_dtmf",
        "`dtmf`: not declared, and the service reports keys",
        "test_a_turn_is_committed",
        "Dtmf of the key '5', although dtmf is False",
        _DTMF,
        Edit("protocol", _TURN, f'{_TURN[:-1]}, Dtmf(digit="5")]'),
        Edit("protocol", "    Event,\n", "    Dtmf,\n    Event,\n"),
    ),
    _mutant(
        "hides_turn_limit",
        "`limits`: lacks turns, which the control plane counts",
        _COMPLETE,
        "limits lacks 'turns', which the control plane counts for every pair",
        Edit("plugin", LIMITS, 'limits=frozenset({"duration", "idle"}),'),
    ),
    _mutant(
        "hides_tool_limit",
        "`limits`: lacks tool calls, with tools",
        _COMPLETE,
        "limits lacks 'tool_calls', and tools is 'sync'",
        has('tools="sync",'),
    ),
    _mutant(
        "hides_price",
        "`limits`: lacks cost, with tokens and prices",
        _COMPLETE,
        "limits lacks 'cost', usage is 'tokens', and prices has the models",
        has('usage="tokens",'),
        Edit(
            "plugin",
            'closed=True, default="voice-1"),',
            'closed=True, default="voice-1"),\n                prices=(ModelPrices(model="hides_price-1", output_audio=1.0),),',
        ),
        Edit("plugin", "hookimpl\n\n__all__", "ModelPrices, hookimpl\n\n__all__"),
    ),
    _mutant(
        "hides_cost",
        "`usage`: tokens, and the cost is reported",
        _USAGE,
        "usage is tokens, and a cost is reported (0.1)",
        *costs("0.1"),
        has('usage="tokens",'),
    ),
    _mutant(
        "hides_cost_limit",
        "`limits`: lacks cost, which is reported",
        _USAGE,
        "usage is cost, 0.1 was reported, and limits lacks 'cost'",
        *costs("0.1"),
        has('usage="cost",'),
    ),
    _mutant(
        "lies_stateless",
        "`resumption`: stateless, and the service is told each text once",
        "test_nothing_is_lost_with_a_connection",
        "did not reach the provider with the request for an answer",
        Edit("plugin", 'resumption="replay"', 'resumption="stateless"'),
    ),
)
