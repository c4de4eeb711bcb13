"""Body of `GET /v1/models`, in the form of model routers."""

from __future__ import annotations

from typing import Any

__all__ = ["CHAT_MODEL", "TRANSCRIPTION_MODEL", "list_models"]

CHAT_MODEL = "local-realtime-1"
TRANSCRIPTION_MODEL = "moonshine-tiny-en"
_CREATED = 1_790_000_000
_CONTEXT = 128_000
_PARAMETERS = ("max_tokens", "max_completion_tokens", "modalities", "tools", "tool_choice", "stream")


def list_models(output: str | None) -> list[dict[str, Any]]:
    """Return the models.

    Args:
        output: Comma-separated output modalities, such as `audio`; only models with one of them. None for all.
    """
    known = (
        _model(CHAT_MODEL, "Local conversation", ("text", "audio"), ("text", "audio")),
        _model(TRANSCRIPTION_MODEL, "Moonshine tiny, English", ("audio",), ("transcription",)),
    )
    modalities = None if output in {None, "all"} else set(str(output).split(","))
    return [
        model for model in known if modalities is None or modalities & set(model["architecture"]["output_modalities"])
    ]


def _model(name: str, title: str, takes: tuple[str, ...], gives: tuple[str, ...]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "local",
        "name": title,
        "context_length": _CONTEXT,
        "architecture": {
            "modality": f"{'+'.join(takes)}->{'+'.join(gives)}",
            "input_modalities": list(takes),
            "output_modalities": list(gives),
        },
        "pricing": {"prompt": "0", "completion": "0", "audio": "0", "request": "0"},
        "supported_parameters": list(_PARAMETERS) if "text" in gives else [],
    }
