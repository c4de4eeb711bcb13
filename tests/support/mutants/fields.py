"""The mutants that prove each field of a manifest: with a value that claims too much, or too little, a standard test fails."""

from __future__ import annotations

__all__ = ["FIELDS", "TOO_LITTLE"]

_MANIFEST = {
    "api": "lies_api",
    "providers": "lies_provider",
    "transports": "t_routes",
    "pairs": "lies_transport",
    "settings": "lies_settings",
}
_PROVIDER = {
    "name": "lies_name",
    "title": "lies_title",
    "key_setting": "lies_key_name",
    "key_required": "lies_key_required",
    "url_setting": "lies_url_name",
    "default_url": "lies_default_url",
    "models": "lies_models",
    "voices": "lies_voice",
    "model_specs": "lies_model_specs",
    "prices": "lies_prices",
    "concurrency": "lies_concurrency",
}
_PAIR = {
    "provider": "lies_provider",
    "transport": "lies_transport",
    "factory": "lies_factory",
    "media": "lies_media",
    "capabilities": "lies_capabilities",
    "options": "lies_options",
    "requires": "lies_requires",
    "extra": "lies_extra",
    "notes": "lies_notes",
    "bridged_from": "lies_bridged",
}
_CAPABILITIES = {
    "say": "lies_exact",
    "uninterruptible": "lies_uninterruptible",
    "floors": "lies_floors",
    "turn_detection": "lies_detection",
    "modalities": "lies_modalities",
    "tools": "lies_tools",
    "caller_transcript": "lies_caller_transcript",
    "agent_transcript": "lies_agent_transcript",
    "transcription": "lies_own",
    "default_transcription": "lies_transcriber",
    "answers_after": "lies_answers_commit",
    "begins_turns": "lies_begins_turns",
    "interruption": "lies_interruption",
    "delays_interruption": "lies_delays",
    "truncation": "lies_truncation",
    "text_input": "lies_text",
    "resumption": "lies_stateless",
    "usage": "lies_usage",
    "max_duration": "lies_max_duration",
    "client_leg": "lies_client_leg",
    "routing": "lies_routing",
    "limits": "lies_cost_limit",
    "formats": "lies_formats",
    "output_formats": "lies_output",
    "echoes": "lies_echo",
    "dtmf": "lies_dtmf",
}
_TRANSPORT = {
    "name": "t_name",
    "client": "t_client",
    "media": "t_media",
    "summary": "t_summary",
    "factory": "t_factory",
    "routes": "t_routes",
    "formats": "t_formats",
    "text_input": "t_text_input",
    "commits": "t_commits",
    "dtmf": "t_dtmf",
    "settings": "t_unread",
    "requires": "t_requires",
    "extra": "t_extra",
    "notes": "t_notes",
}
_ROUTE = {
    "method": "t_method",
    "path": "t_path",
    "handler": "t_handler",
    "access": "t_access",
    "summary": "t_route_summary",
    "socket": "t_socket",
    "max_body": "t_max_body",
    "at_once": "t_at_once",
}

FIELDS: dict[tuple[str, str], str] = {
    (spec, field): mutant
    for spec, of in {
        "Manifest": _MANIFEST,
        "ProviderSpec": _PROVIDER,
        "PairSpec": _PAIR,
        "Capabilities": _CAPABILITIES,
        "TransportSpec": _TRANSPORT,
        "RouteSpec": _ROUTE,
    }.items()
    for field, mutant in of.items()
}
"""Mutants whose value of a field claims too much, or is wrong, by record and field."""

_HIDDEN_CAPABILITIES = {
    "say": "lies_say",
    "uninterruptible": "hides_uninterruptible",
    "floors": "hides_floor",
    "modalities": "hides_text",
    "tools": "hides_tools",
    "caller_transcript": "unasked_partials",
    "agent_transcript": "hides_pieces",
    "transcription": "hides_transcriber",
    "answers_after": "hides_answers",
    "begins_turns": "hides_begins",
    "turn_detection": "hides_manual",
    "interruption": "interrupts_unasked",
    "delays_interruption": "hides_delays",
    "truncation": "hides_truncation",
    "text_input": "lies_text_input",
    "resumption": "lies_resumption",
    "routing": "hides_routing",
    "usage": "unasked_usage",
    "limits": "hides_turn_limit",
    "formats": "lies_formats",
    "output_formats": "lies_formats",
    "echoes": "lies_echoes",
    "dtmf": "hides_dtmf",
}
_HIDDEN_INPUTS = {
    "dtmf": "t_hides_dtmf",
    "text_input": "t_hides_text",
    "commits": "t_hides_commits",
    "settings": "t_settings",
    "formats": "t_formats",
}

TOO_LITTLE: dict[tuple[str, str], str] = {
    **{("Capabilities", field): mutant for field, mutant in _HIDDEN_CAPABILITIES.items()},
    **{("TransportSpec", field): mutant for field, mutant in _HIDDEN_INPUTS.items()},
}
"""Mutants whose value of a field claims less than they do, where the kit can try it."""
