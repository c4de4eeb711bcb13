"""Mutants of the transport's skeleton: its routes, its verification, its leg."""

from __future__ import annotations

from support.mutants.mutant import Edit, Mutant

__all__ = ["TRANSPORTS"]

_COMPLETE = "test_the_manifest_is_complete"
_LIGHT = "test_the_manifest_is_light"
_CALL = "test_a_call_is_connected"
_ASYNCIO = ("leg", "import json\n", "import asyncio\nimport json\n")
_AUDIO = "                yield CallerAudio(message.data)\n"
_SEND = "            await self._socket.send_bytes(data)\n"
_CLOSE = '        await self._send("bye")\n        await self._socket.close()\n'
_BYE = '                case {"type": "bye"}:\n'
_TYPED = '        await self._connected_socket().send_str(json.dumps({{"type": {}}}))\n'
_DTMF = "                dtmf=True,\n"


def _mutant(name: str, fault: str, test: str, says: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, fault, test, says, tuple(Edit(*edit) for edit in edits), "transport")


def _plugin(name: str, fault: str, test: str, says: str, *edits: tuple[str, str]) -> Mutant:
    return _mutant(name, fault, test, says, *(("plugin", old, new) for old, new in edits))


TRANSPORTS = (
    _mutant(
        "lets_all_in",
        "`verify` accepts every caller",
        "test_unverified_callers_are_refused",
        "an unverified caller got status",
        (
            "transport",
            "if secret is None or not hmac.compare_digest(secret.get_secret_value().encode(), given.encode()):",
            "if secret is None:",
        ),
    ),
    _mutant(
        "verify_hangs",
        "`verify` never returns",
        "test_unverified_callers_are_refused",
        "the unverified caller gets a response: not within",
        (
            "transport",
            '        secret = self._runtime.setting("VERIFY_HANGS_SECRET")\n',
            '        import asyncio\n\n        await asyncio.Event().wait()\n        secret = self._runtime.setting("VERIFY_HANGS_SECRET")\n',
        ),
    ),
    _mutant(
        "no_evidence",
        "`verify` says nothing about how",
        _CALL,
        "the evidence does not say how it was verified",
        ("transport", 'Evidence("no_evidence-secret",', 'Evidence("",'),
    ),
    _mutant(
        "starts_twice",
        "a call starts two sessions",
        _CALL,
        "one call must start one session",
        (
            "transport",
            "        socket = web.WebSocketResponse(",
            '        await self._runtime.start_session(request.match_info["target"], evidence=evidence)\n        socket = web.WebSocketResponse(',
        ),
    ),
    _mutant(
        "secret_in_log",
        "the secret is in a log line",
        _CALL,
        "the transport's secret is visible",
        (
            "transport",
            "        socket = web.WebSocketResponse(",
            '        self._runtime.logger.debug("%s", dict(request.headers))\n        socket = web.WebSocketResponse(',
        ),
    ),
    _mutant(
        "secret_as_evidence",
        "the secret is in the evidence",
        _CALL,
        "the transport's secret is visible",
        ("transport", '{"remote": request.remote or ""}', '{"token": given}'),
    ),
    _mutant(
        "factory_locked",
        "the factory never yields",
        "test_every_route_is_served",
        "is entered: not within",
        (
            "transport",
            "    yield FactoryLockedTransport(runtime)\n",
            "    import asyncio\n\n    await asyncio.Event().wait()\n    yield FactoryLockedTransport(runtime)\n",
        ),
    ),
    _mutant(
        "drops_audio",
        "the caller's audio is dropped",
        "test_caller_audio_arrives",
        "all audio of the caller arrives: not within",
        ("leg", _AUDIO, ""),
    ),
    _mutant(
        "swaps_audio",
        "the caller's bytes are swapped",
        "test_caller_audio_arrives",
        "the caller's audio was changed",
        ("leg", "CallerAudio(message.data)", "CallerAudio(message.data[::-1])"),
    ),
    _mutant(
        "drops_keys",
        "keys of the telephone are dropped",
        "test_dtmf_text_and_commits",
        "two keys arrive: not within",
        ("leg", "                    yield CallerDtmf(digit)\n", "                    print(digit)\n"),
    ),
    _mutant(
        "drops_marks",
        "confirmed marks are dropped",
        "test_agent_audio_arrives",
        "marks is True, and the end of the playout is known by wallclock: yield CallerMark(name)",
        ("leg", "                    yield CallerMark(name)\n", "                    print(name)\n"),
    ),
    _mutant(
        "cuts_speech",
        "the agent's audio is cut",
        "test_agent_audio_arrives",
        "all audio is heard: not within",
        ("leg", "send_bytes(data)", "send_bytes(data[:-2])"),
    ),
    _mutant(
        "swaps_speech",
        "the agent's bytes are swapped",
        "test_agent_audio_arrives",
        "the reply's audio was changed",
        ("leg", "send_bytes(data)", "send_bytes(data[::-1])"),
    ),
    _mutant(
        "never_clears",
        "`clear` does nothing",
        "test_an_interruption_clears_the_playout",
        "the caller is told to clear its playout: not within",
        ("leg", '        await self._send("clear")\n', "        return\n"),
    ),
    _mutant(
        "clear_hangs",
        "`clear` never returns",
        "test_an_interruption_clears_the_playout",
        "clear() returns once the clear is sent: not within",
        _ASYNCIO,
        (
            "leg",
            '        await self._send("clear")\n',
            '        await self._send("clear")\n        await asyncio.Event().wait()\n',
        ),
    ),
    _mutant(
        "hangs_on",
        "a hang-up looks like a lost connection",
        "test_the_caller_disconnects[hangs_up]",
        "CallerGone.hung_up must be true",
        ("leg", 'CallerGone("the caller hung up")', 'CallerGone("the caller hung up", hung_up=False)'),
    ),
    _mutant(
        "ignores_hangup",
        "the caller's hang-up is ignored",
        "test_the_caller_disconnects[hangs_up]",
        "expected CallerGone: not within",
        (
            "leg",
            '                    yield CallerGone("the caller hung up")\n                    return\n',
            "                    continue\n",
        ),
    ),
    _mutant(
        "keeps_caller",
        "`close` does not disconnect the caller",
        "test_the_agent_hangs_up",
        "the caller is disconnected: not within",
        ("leg", _CLOSE, "        return\n"),
        (
            "transport",
            "            await self._runtime.carry(session_id, leg)\n",
            "            await self._runtime.carry(session_id, leg)\n            async for _ in socket:\n                continue\n",
        ),
    ),
    _mutant(
        "leg_close_hangs",
        "`close` of a leg never returns",
        "test_the_agent_hangs_up",
        "the leg closes: not within",
        _ASYNCIO,
        ("leg", _CLOSE, f"{_CLOSE}        await asyncio.Event().wait()\n"),
    ),
    _mutant(
        "buffers_all",
        "`play` never waits for a slow caller",
        "test_a_stalled_caller_causes_backpressure",
        "were accepted for a stalled caller",
        (
            "leg",
            "        self._socket = socket\n",
            "        self._socket = socket\n        self._buffer: list[bytes] = []\n",
        ),
        ("leg", _SEND, "            self._buffer.append(data)\n"),
    ),
    _mutant(
        "play_swallows_cancel",
        "`play` catches its cancellation",
        "test_a_stalled_caller_causes_backpressure",
        "play ignores its cancellation",
        _ASYNCIO,
        (
            "leg",
            _SEND,
            "            while True:\n                try:\n                    await self._socket.send_bytes(data)\n                    return\n                except asyncio.CancelledError:\n                    await asyncio.Event().wait()\n",
        ),
    ),
    _mutant(
        "leg_leaks",
        "a task is left when the call is over",
        _CALL,
        "keepalive (<coroutine object",
        _ASYNCIO,
        (
            "leg",
            "        self._socket = socket\n",
            '        self._socket = socket\n        self._alive = asyncio.create_task(asyncio.sleep(3600), name="keepalive")\n',
        ),
    ),
    _mutant(
        "input_swallows_cancel",
        "`input` catches its cancellation and goes on",
        "test_shutdown_during_a_call",
        "input() and play() of a leg end when they are cancelled",
        _ASYNCIO,
        (
            "leg",
            "        async for message in self._socket:\n",
            "        while True:\n            try:\n                message = await self._socket.receive()\n            except asyncio.CancelledError:\n                continue\n",
        ),
    ),
    _mutant(
        "deaf_leg",
        "`listening` is False for a connected caller",
        _CALL,
        "the leg of a connected caller must be listening",
        ("leg", "return not self._socket.closed", "return False"),
    ),
    # --- the manifest
    _plugin(
        "t_name",
        "`name` is that of a transport of agentfield-core",
        _LIGHT,
        "declares the transport 'websocket' differently from agentfield-core",
        ('name="t_name"', 'name="websocket"'),
    ),
    _plugin(
        "t_client",
        "`client` is neither browser nor server",
        _LIGHT,
        "client is 'phone', not one of 'browser', 'server'",
        ('client="server"', 'client="phone"'),
    ),
    _plugin(
        "t_media",
        "`media` is direct",
        _COMPLETE,
        "only transports whose media is bridged have caller legs",
        ('media="bridged"', 'media="direct"'),
    ),
    _plugin(
        "t_summary",
        "`summary` is empty",
        _COMPLETE,
        "summary is empty: af adapters and the matrix show it",
        ('summary="T Summary, a line of audio over a WebSocket"', 'summary=""'),
    ),
    _plugin(
        "t_factory",
        "`factory` names nothing",
        _COMPLETE,
        "could not be imported: AttributeError",
        (".transport:transport", ".transport:carrier"),
    ),
    _plugin(
        "t_formats",
        "`formats` lacks that of the leg",
        _CALL,
        "the leg's format pcm16/16000 is not declared",
        ('frozenset({"pcm16/16000"})', 'frozenset({"pcmu/8000"})'),
    ),
    _mutant(
        "t_dtmf",
        "`dtmf` is declared, and keys have another name",
        "test_dtmf_text_and_commits",
        "two keys arrive: not within",
        ("leg", '{"type": "key", "digit": str(digit)}', '{"type": "tone", "digit": str(digit)}'),
    ),
    _plugin(
        "t_text_input",
        "`text_input` is declared, and nobody can type",
        "test_dtmf_text_and_commits",
        "NotImplementedError",
        (_DTMF, f"{_DTMF}                text_input=True,\n"),
    ),
    _plugin(
        "t_commits",
        "`commits` is declared, and nobody can commit",
        "test_dtmf_text_and_commits",
        "NotImplementedError",
        (_DTMF, f"{_DTMF}                commits=True,\n"),
    ),
    _plugin(
        "t_hides_dtmf",
        "`dtmf` is not declared, and keys arrive",
        "test_undeclared_inputs_do_not_arrive",
        "dtmf is False, and such input of a caller arrives",
        (_DTMF, ""),
    ),
    _mutant(
        "t_hides_text",
        "`text_input` is not declared, and text arrives",
        "test_undeclared_inputs_do_not_arrive",
        "text_input is False, and such input of a caller arrives",
        ("peer", "        raise NotImplementedError(text)\n", _TYPED.format('"text", "text": text')),
        (
            "leg",
            _BYE,
            f'                case {{"type": "text", "text": str(text)}}:\n                    yield CallerText(text)\n{_BYE}',
        ),
        ("leg", "CallerInput, CallerMark\n", "CallerInput, CallerMark, CallerText\n"),
    ),
    _mutant(
        "t_hides_commits",
        "`commits` is not declared, and commits arrive",
        "test_undeclared_inputs_do_not_arrive",
        "commits is False, and such input of a caller arrives",
        ("peer", "        raise NotImplementedError\n", _TYPED.format('"commit"')),
        ("leg", _BYE, f'                case {{"type": "commit"}}:\n                    yield CallerCommit()\n{_BYE}'),
        ("leg", "CallerAudio, CallerDtmf", "CallerAudio, CallerCommit, CallerDtmf"),
    ),
    _plugin(
        "t_unread",
        "`settings` has one that is never read",
        "test_every_setting_is_read",
        "settings has T_UNREAD_REGION, and the transport did not read it",
        ('settings=("T_UNREAD_SECRET",)', 'settings=("T_UNREAD_SECRET", "T_UNREAD_REGION")'),
    ),
    _plugin(
        "t_settings",
        "`settings` lacks the secret",
        "test_unverified_callers_are_refused",
        "verify() raised KeyError('T_SETTINGS_SECRET')",
        ('settings=("T_SETTINGS_SECRET",)', "settings=()"),
    ),
    _plugin(
        "t_requires",
        "`requires` names a module that is not installed",
        _COMPLETE,
        "requires names modules that are not installed: no_such_module",
        (_DTMF, f'{_DTMF}                requires=("no_such_module",),\n'),
    ),
    _plugin(
        "t_extra",
        "`extra` installs nothing",
        _COMPLETE,
        "extra is 'sip', and requires names no module that it installs",
        (_DTMF, f'{_DTMF}                extra="sip",\n'),
    ),
    _plugin(
        "t_notes", "`notes` is no text", _LIGHT, "notes is 5, not str", (_DTMF, f"{_DTMF}                notes=5,\n")
    ),
    _plugin(
        "t_method",
        "a socket's route has the method POST",
        _LIGHT,
        "a WebSocket is opened with GET",
        ('method="GET"', 'method="POST"'),
    ),
    _plugin(
        "t_path",
        "the path lacks the target",
        _CALL,
        "line() raised KeyError('target')",
        ('path="/line/{target}"', 'path="/line/{session}"'),
    ),
    _plugin(
        "t_handler",
        "`handler` names no method",
        "test_every_route_is_served",
        "the transport has no method `async def wire(...)`",
        ('handler="line"', 'handler="wire"'),
    ),
    _plugin(
        "t_access",
        "`access` is the operator's, whom callers are not",
        _CALL,
        "the call is connected",
        ('access="verified"', 'access="operator"'),
    ),
    _plugin(
        "t_route_summary",
        "`summary` of a route is empty",
        _COMPLETE,
        "summary is empty: the OpenAPI document shows it",
        ('summary="The audio of a call"', 'summary=""'),
    ),
    _plugin(
        "t_socket",
        "`socket` is False for a WebSocket",
        _CALL,
        "the deadline of a request ends a socket after 30 s",
        ("                        socket=True,\n", ""),
    ),
    _plugin("t_at_once", "`at_once` is 0", _LIGHT, "at_once 1 to", ("at_once=1000", "at_once=0")),
    _plugin("t_max_body", "`max_body` is 0", _LIGHT, "max_body is 1 to", ("at_once=1000,", "max_body=0,")),
    _plugin(
        "t_routes",
        "`routes` is empty",
        _COMPLETE,
        "it has no routes, so no caller could connect",
        ("                routes=(\n", "                routes=() and (\n"),
    ),
)
