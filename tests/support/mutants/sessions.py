"""Mutants of the provider's events: dropped, doubled, reordered, late, under other ids, in wrong units."""

from __future__ import annotations

from support.mutants.mutant import Edit, Mutant

__all__ = ["SESSIONS"]

_READY = 'return [SessionReady(model=message["model"], voice=message["voice"])]'
_STARTED = 'return [TurnStarted(item=message["id"])]'
_TURN = "return [TurnStopped(item=item), TurnCommitted(item=item), TurnTranscript(item=item, text=text)]"
_SPEECH = 'return [ReplyStarted(reply=reply, command=message.get("for"))]'
_SOUND = 'return [ReplyAudio(reply=reply, data=base64.b64decode(message["data"]))]'
_DONE = "return [ReplyTranscript(reply=reply, text=text, final=True), ended]"
_ENDED = "ended = ReplyEnded(reply=reply, command=command, text=text, audio=self._speaks)"
_CLOSED = "            yield SessionClosed()\n"
_BROKEN = 'yield SessionClosed(reason="provider_error", message=why, retry=True)'
_OPENS = "test_a_session_opens_and_closes"
_TURNS = "test_a_turn_is_committed"
_SAYS = "test_a_say_is_spoken"
_LOST = "test_a_lost_connection_is_reported"


def _protocol(name: str, fault: str, test: str, says: str, *edits: tuple[str, str]) -> Mutant:
    return Mutant(name, fault, test, says, tuple(Edit("protocol", old, new) for old, new in edits))


def _adapter(name: str, fault: str, test: str, says: str, *edits: tuple[str, str]) -> Mutant:
    return Mutant(name, fault, test, says, tuple(Edit("adapter", old, new) for old, new in edits))


SESSIONS = (
    _protocol("no_ready", "`SessionReady` is dropped", _OPENS, "expected SessionReady", (_READY, "return []")),
    _protocol(
        "late_ready",
        "`SessionReady` comes with the first turn",
        _TURNS,
        "TurnStarted comes before SessionReady: emit SessionReady first",
        (_READY, "return []"),
        (
            _TURN,
            (
                "return [TurnStopped(item=item), TurnCommitted(item=item), TurnTranscript(item=item, text=text), "
                "SessionReady(model=self._config.model, voice=self._config.voice)]"
            ),
        ),
    ),
    _protocol(
        "other_model",
        "`SessionReady` names another model than the provider repeats",
        _OPENS,
        "SessionReady.model is 'newest', and the session asked for 'other_model-1'",
        (_READY, 'return [SessionReady(model="newest", voice=message["voice"])]'),
    ),
    _adapter(
        "no_closed",
        "`SessionClosed` is never emitted",
        _OPENS,
        "the last event must be SessionClosed",
        (_CLOSED, "            return\n"),
    ),
    _adapter(
        "closed_twice",
        "`SessionClosed` is emitted twice",
        _OPENS,
        "SessionClosed occurs 2 times: emit it once, as the last event",
        (_CLOSED, _CLOSED * 2),
    ),
    _adapter(
        "after_closed",
        "an event follows `SessionClosed`",
        _OPENS,
        "Warned follows SessionClosed: emit nothing after it",
        (_CLOSED, f'{_CLOSED}            yield Warned(code="bye", message="bye")\n'),
        (
            "from agentfield.realtime.events import Event, SessionClosed",
            "from agentfield.realtime.events import Event, SessionClosed, Warned",
        ),
    ),
    _adapter(
        "quietly_lost",
        "a lost connection looks like a wanted end",
        _LOST,
        "the provider's connection was lost, and SessionClosed has reason='closed', as if it had been asked for",
        (_BROKEN, "yield SessionClosed(message=why)"),
    ),
    _adapter(
        "lost_for_good",
        "a lost connection does not say that a new session may be opened",
        _LOST,
        "resumption is replay, and SessionClosed of a lost connection has retry=False",
        (_BROKEN, 'yield SessionClosed(reason="provider_error", message=why)'),
    ),
    # --- turns
    _protocol(
        "no_turn_started",
        "`TurnStarted` is dropped",
        _TURNS,
        "is committed and has no TurnStarted",
        (_STARTED, "return []"),
    ),
    _protocol(
        "late_turn_started",
        "`TurnStarted` comes at the end of the turn",
        "test_the_beginning_of_a_turn_is_told_at_once",
        "expected TurnStarted while the caller still speaks",
        (_STARTED, "return []"),
        (_TURN, "return [TurnStarted(item=item), TurnCommitted(item=item), TurnTranscript(item=item, text=text)]"),
    ),
    _protocol(
        "turn_reversed",
        "the events of a turn are in reverse order",
        _TURNS,
        "has TurnCommitted before TurnStopped: the order of a turn is TurnStarted, TurnStopped, TurnCommitted",
        (_TURN, "return [TurnTranscript(item=item, text=text), TurnCommitted(item=item), TurnStopped(item=item)]"),
    ),
    _protocol(
        "transcript_first",
        "the transcript comes before the turn is committed",
        _TURNS,
        "has its final TurnTranscript before TurnCommitted: hold the transcript back",
        (_TURN, "return [TurnStopped(item=item), TurnTranscript(item=item, text=text), TurnCommitted(item=item)]"),
    ),
    _protocol(
        "turn_twice",
        "a repeated message of the provider commits a turn again",
        "test_unknown_messages_are_ignored",
        "has TurnStopped 2 times: ignore a provider's repetitions",
        ('case "turn" if message["id"] not in self._turns:', 'case "turn":'),
    ),
    _protocol(
        "started_twice",
        "a repeated message of the provider begins a turn again",
        "test_unknown_messages_are_ignored",
        "has TurnStarted 2 times: ignore a provider's repetitions",
        ('case "speaking" if message["id"] not in self._begun:', 'case "speaking":'),
    ),
    _protocol(
        "no_commit", "`TurnCommitted` is dropped", _TURNS, "expected TurnCommitted", (" TurnCommitted(item=item),", "")
    ),
    _protocol(
        "no_transcript",
        "`TurnTranscript` is dropped",
        _TURNS,
        "expected TurnTranscript",
        (", TurnTranscript(item=item, text=text)]", "]"),
    ),
    _protocol(
        "other_item",
        "the transcript has another item than its turn",
        _TURNS,
        "expected TurnTranscript",
        ("TurnTranscript(item=item, text=text)", 'TurnTranscript(item=f"text of {item}", text=text)'),
    ),
    _protocol(
        "one_item",
        "all turns have the same item",
        "test_turns_are_ordered",
        "and give each turn an id of its own",
        (_STARTED, 'return [TurnStarted(item="turn")]'),
        ("        self._turns.add(item)\n", '        self._turns.add(item)\n        item = "turn"\n'),
    ),
    _protocol(
        "counted_items",
        "each session counts its turns from one",
        "test_ids_are_unique_across_sessions",
        "two sessions use the same ids",
        (_STARTED, 'return [TurnStarted(item=f"turn {len(self._begun)}")]'),
        (
            "        self._turns.add(item)\n",
            '        self._turns.add(item)\n        item = f"turn {len(self._turns)}"\n',
        ),
    ),
    _protocol(
        "counted_replies",
        "each session counts its replies from one",
        "test_ids_are_unique_across_sessions",
        "two sessions use the same ids",
        (
            'reply = str(message.get("reply", ""))',
            'reply = str(message.get("reply", ""))\n        reply = self._names.setdefault(reply, f"reply {len(self._names)}")',
        ),
        (
            "        self._begun: set[str] = set()\n",
            "        self._begun: set[str] = set()\n        self._names: dict[str, str] = {}\n",
        ),
    ),
    _protocol(
        "latin_only",
        "characters of other scripts are lost",
        "test_unicode_survives",
        "the transcript is ['Gre an , nave  ok']",
        (
            "TurnTranscript(item=item, text=text)",
            'TurnTranscript(item=item, text=text.encode("ascii", "ignore").decode())',
        ),
    ),
    _protocol(
        "two_finals",
        "pieces of the transcript are each marked as final",
        _TURNS,
        "has 2 final transcripts: pieces have final=False",
        (
            "TurnTranscript(item=item, text=text)]",
            "TurnTranscript(item=item, text=text), TurnTranscript(item=item, text=text)]",
        ),
    ),
    _protocol(
        "unasked_partials",
        "partial transcripts come although only final ones are declared",
        _TURNS,
        "caller_transcript is final, but there are partial transcripts",
        (
            "TurnTranscript(item=item, text=text)]",
            "TurnTranscript(item=item, text=text[:3], final=False), TurnTranscript(item=item, text=text)]",
        ),
    ),
    # --- replies
    _protocol(
        "no_reply_started",
        "`ReplyStarted` is dropped",
        _SAYS,
        "does not begin with one ReplyStarted, but with",
        (_SPEECH, "return []"),
    ),
    _protocol("no_reply_ended", "`ReplyEnded` is dropped", _SAYS, "expected ReplyEnded", (", ended]", "]")),
    _protocol(
        "other_command",
        "a reply has the id of no command",
        _SAYS,
        "has command='mine', which is the id of no SayCommand or ReplyCommand",
        (_SPEECH, 'return [ReplyStarted(reply=reply, command="mine")]'),
    ),
    _protocol(
        "no_command_at_end",
        "`ReplyEnded` lacks the id of its command",
        _SAYS,
        "and ends with command=None",
        ("ended = ReplyEnded(reply=reply, command=command,", "ended = ReplyEnded(reply=reply,"),
    ),
    _protocol(
        "transcript_after_end",
        "the transcript follows `ReplyEnded`",
        _SAYS,
        "has ReplyTranscript after its ReplyEnded: ReplyEnded is the last event of a reply's generation",
        (_DONE, "return [ended, ReplyTranscript(reply=reply, text=text, final=True)]"),
    ),
    _protocol(
        "audio_after_end",
        "the last audio follows `ReplyEnded`",
        "test_a_slow_reader_misses_nothing",
        "has ReplyAudio after its ReplyEnded",
        (
            _DONE,
            "return [ReplyTranscript(reply=reply, text=text, final=True), ended, ReplyAudio(reply=reply, data=bytes(640))]",
        ),
    ),
    _protocol("no_audio", "`ReplyAudio` is dropped", _SAYS, "the reply has no audio", (_SOUND, "return []")),
    _protocol(
        "audio_held_back",
        "the audio of a reply is held back until it is complete",
        "test_audio_is_passed_on_as_it_arrives",
        "pass each piece on as it arrives",
        (_SOUND, 'self._held.append(ReplyAudio(reply=reply, data=base64.b64decode(message["data"])))'),
        (
            _DONE,
            "held, self._held = self._held, []\n        return [*held, ReplyTranscript(reply=reply, text=text, final=True), ended]",
        ),
        (
            "        self._begun: set[str] = set()\n",
            "        self._begun: set[str] = set()\n        self._held: list[Event] = []\n",
        ),
    ),
    _protocol(
        "half_samples",
        "audio is cut within a sample",
        _SAYS,
        "ends within a sample of 2 bytes: keep the rest for the next",
        (_SOUND, 'return [ReplyAudio(reply=reply, data=base64.b64decode(message["data"])[:-1])]'),
    ),
    _protocol(
        "seconds_for_ms",
        "`audio_ms` is in seconds",
        _SAYS,
        "audio_ms is 0",
        (_ENDED, _ENDED.replace("audio=self._speaks", "audio=self._speaks, audio_ms=0")),
    ),
    _protocol(
        "silent_flag",
        "`ReplyEnded.audio` is False for a spoken reply",
        _SAYS,
        "ReplyEnded.audio is wrong",
        (_ENDED, _ENDED.replace("audio=self._speaks", "audio=False")),
    ),
    _protocol(
        "always_spoken",
        "a session that declares text gets `audio=True`",
        "test_each_form_of_answers",
        "ReplyEnded.audio is wrong",
        (_ENDED, _ENDED.replace("audio=self._speaks", "audio=True")),
    ),
    _protocol(
        "no_agent_transcript",
        "the agent's transcript is dropped",
        _SAYS,
        "there is no final transcript",
        (_DONE, "return [ended]"),
    ),
    _protocol(
        "other_text",
        "`ReplyEnded` has another text than the transcript",
        _SAYS,
        "ReplyEnded has another text than the final transcript",
        (_ENDED, _ENDED.replace("text=text", "text=text.upper()")),
    ),
    _protocol(
        "phantom_tools",
        "`ReplyEnded` counts tool calls that did not happen",
        _SAYS,
        "has 0 ToolRequested, and its ReplyEnded says tools=1",
        (_ENDED, _ENDED.replace("audio=self._speaks", "audio=self._speaks, tools=1")),
    ),
    _protocol(
        "cancelled_is_failed",
        "a cancelled reply is reported as failed",
        "test_a_reply_is_cancelled",
        "a cancelled reply is reported as failed",
        ('{"status": "cancelled", "why": "asked"}', '{"status": "failed", "why": "asked"}'),
    ),
    _protocol(
        "interrupts_unasked",
        "`Interrupted` is emitted although the provider does not interrupt",
        "test_the_caller_interrupts_a_reply",
        "Interrupted, although interruption is 'client': only a provider that stops its speech by itself reports it",
        (_STARTED, 'return [TurnStarted(item=message["id"]), *(Interrupted(reply=each) for each in self._replies)]'),
        ("    Event,\n", "    Event,\n    Interrupted,\n"),
    ),
    _protocol(
        "unasked_usage",
        "usage is reported although the manifest declares none",
        "test_usage_is_reported",
        "usage is none, but was reported",
        (
            _DONE,
            f'usage = UsageReported(kind="reply", reply=reply, usage=Usage(output_text_tokens=1))\n        {_DONE[:-1]}, usage]',
        ),
        ("    TurnTranscript,\n)", "    TurnTranscript,\n    Usage,\n    UsageReported,\n)"),
    ),
)
