"""Effective configuration of a session: defaults, merging of partial updates, and the wire form."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from agentfield_local.realtime.configuration.schema import (
    DEFAULT_MODEL,
    SemanticVad,
    ServerVad,
    SessionPatch,
    TranscriptionSessionPatch,
)
from agentfield_local.speech.voices import accepted_voices
from agentfield_local.wire.refusals import Refusal
from agentfield_local.wire.validation import StrictModel, refusal_from_validation

__all__ = ["SessionConfig"]

_MODEL_WITHOUT_TURNS = "gpt-realtime-whisper"
_TURN_DETECTION: dict[str, dict[str, Any]] = {
    "server_vad": ServerVad(type="server_vad").model_dump(),
    "semantic_vad": SemanticVad(type="semantic_vad").model_dump(),
}


class SessionConfig:
    """Effective configuration of one session.

    Args:
        model: Requested model; None until a client names one.
        session_id: Id that the server reports.
        expires_at: Unix time at which the session ends.
        voices: Voices of the speech engine; the first is the default.
        transcription: Whether the session only transcribes.
        silence_ms: Default of `silence_duration_ms`.
    """

    def __init__(
        self,
        *,
        model: str | None,
        session_id: str,
        expires_at: int,
        voices: Collection[str],
        transcription: bool = False,
        silence_ms: int = 500,
    ) -> None:
        self.transcription = transcription
        self._voices = accepted_voices(voices)
        self._has_model = model is not None
        self.data: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": model or DEFAULT_MODEL,
            "output_modalities": ["audio"],
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "max_output_tokens": "inf",
            "truncation": "auto",
            "tracing": None,
            "prompt": None,
            "include": None,
            "expires_at": expires_at,
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "noise_reduction": None,
                    "transcription": None,
                    "turn_detection": {**_TURN_DETECTION["server_vad"], "silence_duration_ms": silence_ms},
                },
                "output": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "voice": self._voices[0],
                    "speed": 1.0,
                },
            },
        }

    def update(
        self, patch: Mapping[str, Any], *, has_audio: bool = False, root: tuple[str, ...] = ("session",)
    ) -> None:
        """Merge a partial session; on a refusal, nothing changes.

        Args:
            patch: The `session` object of the client.
            has_audio: Whether the assistant has spoken, which locks the voice.
            root: Path of the object in the client's message, for the refusal.

        Raises:
            Refusal: A field is invalid, or the session is of the other type.
        """
        data = dict(patch)
        self._check_type(data.get("type"), root)
        model: type[StrictModel] = TranscriptionSessionPatch if self.transcription else SessionPatch
        try:
            valid = model.model_validate(data).model_dump(exclude_unset=True)
        except ValidationError as error:
            raise refusal_from_validation(error, data, root) from None
        if self._has_model:
            valid.pop("model", None)
        self.check_voice(valid.get("audio", {}).get("output", {}).get("voice"), has_audio=has_audio, root=root)
        merged = _merge(self.data, valid)
        if self.transcription:
            _check_turn_detection(merged["audio"]["input"], root)
        self.data = merged
        self._has_model = self._has_model or "model" in valid

    def _check_type(self, given: object, root: tuple[str, ...]) -> None:
        own, other = ("transcription", "realtime") if self.transcription else ("realtime", "transcription")
        if given == other:
            raise Refusal(
                f"Passing a {other} session update event to a {own} session is not allowed.",
                code="invalid_parameter",
                param=".".join((*root, "type")),
            )

    def check_voice(self, voice: str | dict[str, str] | None, *, has_audio: bool, root: tuple[str, ...]) -> None:
        """Reject an unknown voice, and a change of voice after the assistant has spoken; any custom voice is accepted.

        Raises:
            Refusal: `invalid_value` or `cannot_update_voice`.
        """
        if voice is None:
            return
        param = ".".join((*root, "audio.output.voice"))
        if isinstance(voice, str) and voice not in self._voices:
            known = ", ".join(repr(name) for name in self._voices)
            raise Refusal(
                f"Invalid value: {voice!r:.200}. Supported values are: {known}.", code="invalid_value", param=param
            )
        if has_audio and voice != self.voice:
            raise Refusal(
                "Cannot update a conversation's voice if assistant audio is present.",
                code="cannot_update_voice",
                param=param,
            )

    def view(self, echo_model: str | None = None) -> dict[str, Any]:
        """Return the wire form: a copy of the effective session.

        Args:
            echo_model: Model to report instead of the requested one.
        """
        copy = deepcopy(self.data)
        if self.transcription:
            return {
                "type": "transcription",
                "object": "realtime.transcription_session",
                **{name: copy[name] for name in ("id", "expires_at", "include")},
                "audio": {"input": copy["audio"]["input"]},
            }
        if echo_model is not None:
            copy["model"] = echo_model
        return copy

    @property
    def input(self) -> dict[str, Any]:
        """The `audio.input` object."""
        found: dict[str, Any] = self.data["audio"]["input"]
        return found

    @property
    def output(self) -> dict[str, Any]:
        """The `audio.output` object."""
        found: dict[str, Any] = self.data["audio"]["output"]
        return found

    @property
    def voice(self) -> str | dict[str, str]:
        """Name of the voice, or the object with the id of a custom one."""
        found: str | dict[str, str] = self.output["voice"]
        return found

    @property
    def turn_detection(self) -> dict[str, Any] | None:
        """The `turn_detection` object; None if the client commits turns itself."""
        found: dict[str, Any] | None = self.input["turn_detection"]
        return found


def _check_turn_detection(audio_input: Mapping[str, Any], root: tuple[str, ...]) -> None:
    """Reject turn detection in a transcription session whose model does not support it.

    The rule is not one of conversations: clients combine the two there by default.

    Raises:
        Refusal: `invalid_value`.
    """
    model = (audio_input["transcription"] or {}).get("model")
    if model == _MODEL_WITHOUT_TURNS and audio_input["turn_detection"] is not None:
        raise Refusal(
            f"Turn detection is not supported with {_MODEL_WITHOUT_TURNS!r}; set 'turn_detection' to null.",
            code="invalid_value",
            param=".".join((*root, "audio.input.turn_detection")),
        )


def _merge(current: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a patch into a session.

    Objects are merged deeply; every other value, and an object of another `type`, replaces the current one.
    """
    merged = dict(current)
    for name, value in patch.items():
        if not isinstance(value, dict):
            merged[name] = value
        elif name == "turn_detection":
            previous = merged.get(name) or {}
            same = previous.get("type") == value["type"]
            merged[name] = {**(previous if same else _TURN_DETECTION[value["type"]]), **value}
        elif name in {"audio", "input", "output", "transcription", "noise_reduction"}:
            merged[name] = _merge(merged.get(name) or {}, value)
        elif name == "format":
            merged[name] = {"type": "audio/pcm", "rate": 24000} if value["type"] == "audio/pcm" else value
        else:
            merged[name] = value
    return merged
