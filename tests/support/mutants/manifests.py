"""Mutants of the provider's manifest: each field lies, or contradicts another one."""

from __future__ import annotations

from agentfield.plugins import PLUGIN_API
from support.mutants.mutant import Edit, Mutant

__all__ = ["MANIFESTS"]

_COMPLETE = "test_the_manifest_is_complete"
_FORMATS = 'formats=frozenset({"pcm16/16000"}),'
_VOICES = 'voices=Catalog(known=("voice-1",), closed=True, default="voice-1"),'
_MODELS = 'models=Catalog(known=("{0}-1",), default="{0}-1"),'
_LIMITS = 'limits=frozenset({"duration", "idle", "turns"}),'
_MEDIA = 'media="bridged",\n'
_API = f"api={PLUGIN_API}"


def _mutant(name: str, fault: str, test: str, says: str, *edits: tuple[str, str]) -> Mutant:
    return Mutant(name, fault, test, says, tuple(Edit("plugin", old, new) for old, new in edits))


def _adds(name: str, fault: str, test: str, says: str, *added: str) -> Mutant:
    """Return a mutant whose capabilities have further fields."""
    return _mutant(name, fault, test, says, (_FORMATS, " ".join((_FORMATS, *added))))


MANIFESTS = (
    # --- capabilities
    _mutant(
        "lies_say",
        "`say`: none, although it speaks",
        "test_a_say_is_spoken",
        "say is 'none', so send(SayCommand) must raise CapabilityMissing",
        ('say="exact"', 'say="none"'),
    ),
    Mutant(
        "lies_uninterruptible",
        "`uninterruptible`: declared, and `UpdateCommand` is refused",
        "test_uninterruptible_speech",
        "uninterruptible is True, so send(UpdateCommand) must be taken; it raised CapabilityMissing",
        (
            Edit("protocol", "            case UpdateCommand():\n                return None\n", ""),
            Edit(
                "protocol",
                "CommitTurnCommand() | ToolResultCommand()",
                "CommitTurnCommand() | UpdateCommand() | ToolResultCommand()",
            ),
        ),
    ),
    _mutant(
        "lies_floors",
        "`floors`: the model's too, which nobody answers on",
        "test_the_model_floor",
        "expected the model's answer to the turn",
        ('floors=frozenset({"handler"})', 'floors=frozenset({"handler", "model"})'),
    ),
    _mutant(
        "lies_detection",
        "`turn_detection`: semantic too, which nobody tells the provider",
        "test_semantic_turn_detection",
        "needs the method turn_detection",
        ('frozenset({"server_vad"})', 'frozenset({"server_vad", "semantic_vad"})'),
    ),
    _mutant(
        "lies_manual",
        "`turn_detection`: push to talk too, which the adapter refuses",
        "test_push_to_talk",
        "cannot do commit_turn",
        ('frozenset({"server_vad"})', 'frozenset({"server_vad", "manual"})'),
    ),
    Mutant(
        "lies_modalities",
        "`modalities`: text too, which is spoken",
        "test_each_form_of_answers",
        "ReplyEnded.audio is wrong",
        (Edit("protocol", 'self._speaks = "audio" in config.modalities', "self._speaks = True"),),
    ),
    _adds(
        "lies_tools", "`tools`: declared, and refused", "test_tool_calls_round_trip", "no tools here", 'tools="sync",'
    ),
    _mutant(
        "lies_caller_transcript",
        "`caller_transcript`: partial, and only final ones come",
        "test_a_turn_is_committed",
        "caller_transcript is partial, and no TurnTranscript with final=False came",
        ('caller_transcript="final"', 'caller_transcript="partial"'),
    ),
    _mutant(
        "lies_agent_transcript",
        "`agent_transcript`: streaming, and it comes in one piece",
        "test_a_say_is_spoken",
        "agent_transcript is streaming, and the final ReplyTranscript came without any piece",
        ('agent_transcript="final"', 'agent_transcript="streaming"'),
    ),
    _mutant(
        "lies_transcription",
        "`default_transcription`: missing",
        _COMPLETE,
        "default_transcription must name a model",
        ('                    default_transcription="lies_transcription-stt",\n', ""),
    ),
    _adds(
        "lies_own",
        "`transcription`: own, beside a model that could be named",
        "test_the_manifest_is_light",
        "leave out default_transcription",
        'transcription="own",',
    ),
    _mutant(
        "lies_interruption",
        "`interruption`: server, and the provider speaks on",
        "test_the_caller_interrupts_a_reply",
        "expected Interrupted",
        ('interruption="client"', 'interruption="server"'),
    ),
    _adds(
        "lies_truncation",
        "`truncation`: declared, and the provider is not told what was heard",
        "test_truncation",
        "reached the provider after CancelReplyCommand: tell it how much was heard",
        'truncation="client_ms",',
    ),
    _mutant(
        "lies_text_input",
        "`text_input`: not declared, and taken",
        "test_text_input",
        "text_input is False and resumption is 'none', so send(AddTextCommand) must raise CapabilityMissing",
        ("text_input=True,", ""),
        ('resumption="replay",', ""),
    ),
    _mutant(
        "lies_resumption",
        "`resumption`: none, and the conversation so far is taken",
        "test_resumption",
        "resumption is 'none', so send(AddTextCommand) must raise CapabilityMissing",
        ('resumption="replay",', ""),
    ),
    _mutant(
        "lies_handle",
        "`resumption`: handle, and nothing can be resumed",
        "test_resumption_by_handle",
        "so the adapter needs the method resume",
        ('resumption="replay"', 'resumption="handle"'),
    ),
    _mutant(
        "lies_attach",
        "`resumption`: attach, where the media is carried",
        _COMPLETE,
        "'attach' is for direct media, and only that",
        ('resumption="replay"', 'resumption="attach"'),
    ),
    _adds(
        "lies_usage",
        "`usage`: tokens, and none are reported",
        "test_usage_is_reported",
        "expected UsageReported",
        'usage="tokens",',
    ),
    _adds(
        "lies_max_duration",
        "`max_duration`: declared, and never told",
        "test_the_longest_session",
        "needs the method expire",
        "max_duration=600.0,",
    ),
    Mutant(
        "relative_expiry",
        "`SessionReady.expires_at` is seconds from now",
        "test_the_longest_session",
        "it is seconds since the epoch",
        (
            Edit("plugin", _FORMATS, f"{_FORMATS} max_duration=600.0,"),
            Edit("protocol", 'voice=message["voice"])', 'voice=message["voice"], expires_at=600.0)'),
        ),
    ),
    _adds(
        "lies_client_leg",
        "`client_leg`: declared, where the media is carried",
        "test_the_manifest_is_light",
        "client_leg is for direct media only: leave it out",
        'client_leg="watched",',
    ),
    _adds(
        "lies_routing",
        "`routing`: pinned, and nobody checks the route",
        "test_the_route_is_pinned",
        "needs the method reroute",
        'routing="pinned",',
    ),
    _mutant(
        "lies_limits",
        "`limits`: without duration",
        _COMPLETE,
        "limits lacks 'duration', which every session has",
        (_LIMITS, 'limits=frozenset({"idle"}),'),
    ),
    _mutant(
        "lies_cost_limit",
        "`limits`: cost, without usage",
        _COMPLETE,
        "limits has 'cost', and usage is 'none': nothing would ever be counted",
        (_LIMITS, 'limits=frozenset({"duration", "idle", "cost"}),'),
    ),
    _mutant(
        "lies_priceless",
        "`limits`: cost, with tokens and without prices",
        _COMPLETE,
        "limits has 'cost', usage is 'tokens', and prices lacks lies_priceless-1",
        (_LIMITS, 'limits=frozenset({"duration", "idle", "cost"}), usage="tokens",'),
    ),
    _mutant(
        "lies_tool_limit",
        "`limits`: tool calls, without tools",
        _COMPLETE,
        "limits has 'tool_calls', and tools is 'none'",
        (_LIMITS, 'limits=frozenset({"duration", "idle", "tool_calls"}),'),
    ),
    _mutant(
        "lies_formats",
        "`formats`: others than the adapter's",
        "test_formats_match_the_manifest",
        "the adapter's formats are ['pcm16/16000'], the manifest's ['pcm16/8000']",
        (_FORMATS, 'formats=frozenset({"pcm16/8000"}),'),
    ),
    _adds(
        "lies_output",
        "`output_formats`: others than the session's",
        "test_formats_match_the_manifest",
        "replies have the format pcm16/16000, the manifest declares ['pcm16/24000']",
        'output_formats=frozenset({"pcm16/24000"}),',
    ),
    _adds(
        "lies_echoes",
        "`echoes`: nothing, and `SessionReady` repeats the model",
        "test_a_session_opens_and_closes",
        "although echoes lacks 'model': report only what the provider repeats",
        "echoes=frozenset(),",
    ),
    _adds(
        "lies_answers",
        "`answers_after`: commit, without push to talk",
        _COMPLETE,
        "answers_after has 'commit', and turn_detection lacks 'manual'",
        'answers_after=frozenset({"commit"}),',
    ),
    _adds(
        "lies_begins",
        "`begins_turns`: without push to talk",
        _COMPLETE,
        "begins_turns is about push to talk, which turn_detection lacks",
        "begins_turns=True,",
    ),
    Mutant(
        "lies_dtmf",
        "`dtmf`: declared, where the media is direct",
        _COMPLETE,
        "dtmf is set, and the media is direct",
        (
            Edit("plugin", _MEDIA, 'media="direct",\n'),
            Edit("plugin", _FORMATS, 'client_leg="open",'),
            Edit("plugin", 'resumption="replay"', 'resumption="attach"'),
            Edit("plugin", 'transport="websocket"', 'transport="webrtc"'),
        ),
        transport="webrtc",
    ),
    # --- provider
    _mutant(
        "lies_name",
        "the name of the provider is not that of its pair",
        "test_the_manifest_is_light",
        "nothing installed declares provider 'lies_name'",
        ('                name="lies_name",', '                name="other",'),
    ),
    _mutant(
        "lies_title",
        "`title` is empty",
        _COMPLETE,
        "title is empty: errors name the provider by it",
        ('title="Lies Title"', 'title=""'),
    ),
    _mutant(
        "lies_key_setting",
        "`key_setting` is missing, and the key is required",
        _COMPLETE,
        "key_required is set, and key_setting names no setting",
        ('                key_setting="LIES_KEY_SETTING_API_KEY",\n', ""),
    ),
    _mutant(
        "lies_key_required",
        "`key_required` is False, and no session opens without the key",
        "test_a_key_is_optional",
        "key_required is False, so a session must open without a key",
        ('key_setting="LIES_KEY_REQUIRED_API_KEY",', 'key_setting="LIES_KEY_REQUIRED_API_KEY", key_required=False,'),
    ),
    _mutant(
        "lies_url_setting",
        "`url_setting` is missing",
        _COMPLETE,
        "url_setting is missing",
        ('                url_setting="LIES_URL_SETTING_BASE_URL",\n', ""),
    ),
    _mutant(
        "lies_default_url",
        "`default_url` is no address",
        _COMPLETE,
        "default_url is 'api.example', no http(s) or ws(s) address",
        ('default_url="https://api.lies_default_url.example"', 'default_url="api.example"'),
    ),
    _mutant(
        "lies_models",
        "`models` names none",
        _COMPLETE,
        "models names neither a default nor a known model",
        (_MODELS.format("lies_models"), "models=Catalog(),"),
    ),
    _mutant(
        "lies_voices",
        "`voices` is closed and lacks its default",
        _COMPLETE,
        "voices is closed, and its default 'voice-2' is not among the known names",
        (_VOICES, _VOICES.replace('default="voice-1"', 'default="voice-2"')),
    ),
    _mutant(
        "lies_prices",
        "`prices` has a negative price",
        _COMPLETE,
        "prices: output_audio of lies_prices-1 is negative",
        (_VOICES, f'{_VOICES}\n                prices=(ModelPrices(model="lies_prices-1", output_audio=-1.0),),'),
        ("hookimpl\n\n__all__", "ModelPrices, hookimpl\n\n__all__"),
    ),
    _mutant(
        "lies_concurrency",
        "`concurrency` is 0",
        _COMPLETE,
        "concurrency is 0: no session could ever start",
        (_VOICES, f"{_VOICES} concurrency=0,"),
    ),
    _mutant(
        "lies_model_specs",
        "`model_specs` has a model without modalities",
        _COMPLETE,
        "model_specs: lies_model_specs-1 has no modalities",
        (
            _VOICES,
            f'{_VOICES}\n                model_specs=(ModelSpec(model="lies_model_specs-1", modalities=frozenset()),),',
        ),
        ("hookimpl\n\n__all__", "ModelSpec, hookimpl\n\n__all__"),
    ),
    # --- pair
    _mutant(
        "lies_provider",
        "`provider` of the pair is declared by nobody",
        "test_the_manifest_is_light",
        "nothing installed declares provider 'nobody'",
        ('                provider="lies_provider",', '                provider="nobody",'),
    ),
    _mutant(
        "lies_transport",
        "`transport` of the pair is declared by nobody",
        "test_the_manifest_is_light",
        "nothing installed declares transport 'carrier_pigeon'",
        ('transport="websocket"', 'transport="carrier_pigeon"'),
    ),
    _mutant(
        "lies_factory",
        "`factory` names nothing",
        "test_the_factory_can_be_imported",
        "could not be imported: AttributeError",
        (".adapter:websocket", ".adapter:socket"),
    ),
    _mutant(
        "lies_media",
        "`media` is not that of the transport",
        _COMPLETE,
        "media is 'turns', and the transport websocket is 'bridged'",
        (_MEDIA, 'media="turns",\n'),
    ),
    _mutant(
        "lies_options",
        "`options` is no pydantic model",
        "test_the_factory_can_be_imported",
        "is no pydantic model",
        (_MEDIA, f'{_MEDIA}                options="agentfield_lies_options.protocol:Protocol",\n'),
    ),
    _mutant(
        "lies_requires",
        "`requires` names a module that is not installed",
        "test_the_manifest_is_light",
        "needs modules that are not installed: no_such_module",
        (_MEDIA, f'{_MEDIA}                requires=("no_such_module",),\n'),
    ),
    _mutant(
        "lies_extra",
        "`extra` installs nothing",
        _COMPLETE,
        "extra is 'voice', and requires names no module that it installs",
        (_MEDIA, f'{_MEDIA}                extra="voice",\n'),
    ),
    _mutant(
        "lies_notes",
        "`notes` is no text",
        "test_the_manifest_is_light",
        "notes is 5, not str",
        (_MEDIA, f"{_MEDIA}                notes=5,\n"),
    ),
    _mutant(
        "lies_bridged",
        "`bridged_from` is written by the plugin",
        "test_the_manifest_is_light",
        "bridged_from is not for manifests",
        (_MEDIA, f'{_MEDIA}                bridged_from="openai/websocket",\n'),
    ),
    _mutant(
        "lies_capabilities",
        "`capabilities` says nothing",
        _COMPLETE,
        "floors is empty: no turn could be answered",
        ('floors=frozenset({"handler"}),', ""),
    ),
    _mutant(
        "lies_api",
        "`api` is another plugin API",
        "test_the_manifest_is_light",
        "it was made for plugin API 9.0",
        (_API, "api=(9, 0)"),
    ),
    _mutant(
        "lies_settings",
        "`settings` has a name that no environment variable has",
        _COMPLETE,
        "settings has 'my secret', no name of an environment variable",
        (_API, f'settings=("my secret",), {_API}'),
    ),
    _mutant(
        "lies_light",
        "the manifest imports an HTTP client",
        "test_the_manifest_is_light",
        "a manifest names its factories as text and imports nothing",
        ("from agentfield.plugins import", "import aiohttp\n\nfrom agentfield.plugins import"),
    ),
)
