"""The mutant that proves each field of a manifest: with another value in it, a standard test fails."""

from __future__ import annotations

__all__ = ["FIELDS"]

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
    "key_setting": "lies_key_setting",
    "key_required": "lies_key_required",
    "url_setting": "lies_url_setting",
    "default_url": "lies_default_url",
    "models": "lies_models",
    "voices": "lies_voices",
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
    "say": "lies_say",
    "uninterruptible": "lies_uninterruptible",
    "floors": "lies_floors",
    "turn_detection": "lies_detection",
    "modalities": "lies_modalities",
    "tools": "lies_tools",
    "caller_transcript": "lies_caller_transcript",
    "agent_transcript": "lies_agent_transcript",
    "transcription": "lies_own",
    "default_transcription": "lies_transcription",
    "answers_after": "lies_answers",
    "begins_turns": "lies_begins",
    "interruption": "lies_interruption",
    "truncation": "lies_truncation",
    "text_input": "lies_text_input",
    "resumption": "lies_resumption",
    "usage": "lies_usage",
    "max_duration": "lies_max_duration",
    "client_leg": "lies_client_leg",
    "routing": "lies_routing",
    "limits": "lies_limits",
    "formats": "lies_formats",
    "output_formats": "lies_output",
    "echoes": "lies_echoes",
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
    "settings": "t_settings",
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
"""Names of mutants by record and field."""
