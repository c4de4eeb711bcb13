"""The `session` object: the configuration that we request, and the drift of an echoed session from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from agentfield.adapterkit.json_fields import object_at
from agentfield.adapterkit.tool_names import ToolNames
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SemanticVad, ServerVad, SessionConfig, ToolSpec
from agentfield_openai.options import OpenAIOptions, WebSocketOptions

__all__ = ["SessionObject", "is_beta_shape", "wire_format"]

_NAMES = {"pcm16": "audio/pcm", "pcmu": "audio/pcmu", "pcma": "audio/pcma"}


def wire_format(audio: AudioFormat) -> dict[str, Any]:
    """Return an audio format in the form of the protocol."""
    name = _NAMES[audio.codec]
    return {"type": name, "rate": audio.rate} if audio.codec == "pcm16" else {"type": name}


class SessionObject:
    """The requested `session` object of one session.

    Args:
        config: The frozen configuration.
        audio: Format of the audio on this connection; None if the caller negotiates it (WebRTC).

    Raises:
        InvalidInput: The `options` are invalid.
    """

    def __init__(self, config: SessionConfig, audio: AudioFormat | None = None) -> None:
        self.options = (OpenAIOptions if audio is None else WebSocketOptions).of(config)
        self._format = None if audio is None else wire_format(audio)
        self.names = ToolNames(tool.target for tool in config.tools)
        self.modality = "audio" if "audio" in config.modalities else "text"
        self.instructions = config.declaration.instructions or ""
        self._config = config

    def create(self) -> dict[str, Any]:
        """Return the object for the creation of a call."""
        settings = self._settings(interruptible=True, voice=True)
        return {"type": "realtime", "model": self._config.model, **settings, **self._tracing()}

    def update(self, *, interruptible: bool, voice: bool, initial: bool = False) -> dict[str, Any]:
        """Return the object of a `session.update`.

        Args:
            interruptible: Whether speech of the caller interrupts replies; if not, the model does not answer by itself either: the
                provider refuses an answer while another one is active.
            voice: Whether to include the voice; the provider refuses it once audio was produced.
            initial: Whether it is the first of a connection. Tracing is part of the first object that a session gets
                and of no later one: it cannot be changed afterwards. A WebRTC call is created with it.
        """
        tracing = self._tracing() if initial and self._format is not None else {}
        return {"type": "realtime", **self._settings(interruptible=interruptible, voice=voice), **tracing}

    def tools(self, targets: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Return the function definitions of these targets, of all declared ones if None."""
        wanted = None if targets is None else set(targets)
        return [self._function(tool) for tool in self._config.tools if wanted is None or tool.target in wanted]

    def drift(self, echo: Mapping[str, Any], *, interruptible: Iterable[bool]) -> tuple[str, ...]:
        """Return the names of the settings in which an echoed session differs from ours; absent settings count as equal.

        Args:
            echo: The `session` of a server event.
            interruptible: Accepted values of that setting: with unconfirmed updates of ours, several are correct.
        """
        variants = [self._flat(self._settings(interruptible=value, voice=True)) for value in interruptible]
        have = self._flat(echo)
        wanted = variants[0]
        found = [name for name, value in wanted.items() if have.get(name) is not None and not _same(value, have[name])]
        if "turn_detection" in found and any(
            _same(variant["turn_detection"], have["turn_detection"]) for variant in variants
        ):
            found.remove("turn_detection")
        if self._unset("turn_detection", echo) and wanted["turn_detection"] is not None:
            found.append("turn_detection")
        if self._unset("transcription", echo) and wanted.get("transcription") is not None:
            found.append("transcription")
        return tuple(sorted(set(found)))

    def _settings(self, *, interruptible: bool, voice: bool) -> dict[str, Any]:
        handler = self._config.declaration.floor == "handler"
        settings: dict[str, Any] = {
            "output_modalities": [self.modality],
            **self._prompt(),
            "tools": [] if handler else self.tools(),
            "tool_choice": "none" if handler else "auto",
            "audio": {"input": self._input(interruptible=interruptible)},
        }
        output: dict[str, Any] = {} if self._format is None else {"format": dict(self._format)}
        if voice and self._config.voice is not None:
            output["voice"] = self._config.voice
        if self.options.speed is not None:
            output["speed"] = self.options.speed
        if output:
            settings["audio"]["output"] = output
        if self.options.include is not None:
            settings["include"] = list(self.options.include)
        if self.options.max_output_tokens is not None:
            settings["max_output_tokens"] = self.options.max_output_tokens
        if self.options.parallel_tool_calls is not None:
            settings["parallel_tool_calls"] = self.options.parallel_tool_calls
        if self.options.reasoning_effort is not None:
            settings["reasoning"] = {"effort": self.options.reasoning_effort}
        return settings

    def _input(self, *, interruptible: bool) -> dict[str, Any]:
        settings: dict[str, Any] = {"turn_detection": self._turn_detection(interruptible=interruptible)}
        if self._format is not None:
            settings["format"] = dict(self._format)
        if self._config.transcription is not None:
            settings["transcription"] = {"model": self._config.transcription, **self._transcription()}
        if self.options.noise_reduction is not None:
            settings["noise_reduction"] = {"type": self.options.noise_reduction}
            if self.options.noise_reduction_strength is not None:
                settings["noise_reduction"]["strength"] = self.options.noise_reduction_strength
        return settings

    def _transcription(self) -> dict[str, Any]:
        options = self.options
        given = {
            "language": options.language,
            "languages": None if options.languages is None else list(options.languages),
            "keywords": None if options.keywords is None else list(options.keywords),
            "prompt": options.transcription_prompt,
            "delay": options.transcription_delay,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _prompt(self) -> dict[str, Any]:
        """Return the instructions and the prompt template; empty instructions would erase the text of a template."""
        prompt = self.options.prompt
        if prompt is None:
            return {"instructions": self.instructions}
        instructions = {"instructions": self.instructions} if self.instructions else {}
        return {**instructions, "prompt": prompt.model_dump(exclude_none=True)}

    def _tracing(self) -> dict[str, Any]:
        tracing = self.options.tracing
        if tracing is None:
            return {}
        return {"tracing": tracing if isinstance(tracing, str) else tracing.model_dump(exclude_none=True)}

    def _turn_detection(self, *, interruptible: bool) -> dict[str, Any] | None:
        answers = {
            "create_response": interruptible and self._config.declaration.floor == "model",
            "interrupt_response": interruptible and not self._config.declaration.interrupt_after_ms,
        }
        match self._config.turn_detection:
            case ServerVad() as vad:
                return {**vad.model_dump(), **answers}
            case SemanticVad() as vad:
                return {**vad.model_dump(), **answers}
            case None:
                return None

    def _function(self, tool: ToolSpec) -> dict[str, Any]:
        return {
            "type": "function",
            "name": self.names.safe(tool.target),
            "description": tool.description,
            "parameters": tool.parameters,
        }

    def _flat(self, session: Mapping[str, Any]) -> dict[str, Any]:
        """Return the compared settings under the names that warnings use."""
        audio_in, audio_out = object_at(session, "audio", "input"), object_at(session, "audio", "output")
        voice = audio_out.get("voice")
        flat = {
            "turn_detection": audio_in.get("turn_detection"),
            "transcription": audio_in.get("transcription"),
            "noise_reduction": audio_in.get("noise_reduction"),
            "voice": voice.get("id") if isinstance(voice, dict) else voice,
            "speed": audio_out.get("speed"),
        }
        if self._format is not None:
            flat |= {"input_format": audio_in.get("format"), "output_format": audio_out.get("format")}
        plain = (
            "output_modalities",
            "instructions",
            "prompt",
            "tools",
            "tool_choice",
            "max_output_tokens",
            "reasoning",
        )
        return flat | {name: session.get(name) for name in plain}

    @staticmethod
    def _unset(name: str, echo: Mapping[str, Any]) -> bool:
        """Return whether the echo explicitly disables a setting of the audio input."""
        audio_in = object_at(echo, "audio", "input")
        return name in audio_in and audio_in[name] is None


def is_beta_shape(session: Mapping[str, Any]) -> bool:
    """Return whether a `session` has the flat shape of the beta protocol, which knows none of our audio settings."""
    flat = {"modalities", "input_audio_format", "output_audio_format"}
    return bool(flat & session.keys()) and not {"audio", "output_modalities"} & session.keys()


def _same(wanted: Any, have: Any) -> bool:
    """Return whether `have` satisfies `wanted`: extra keys, rounded numbers and another order of tools are accepted."""
    match wanted, have:
        case None, _:
            return True
        case dict(), dict():
            return all(_same(value, have.get(key)) for key, value in wanted.items())
        case list(), list():
            return len(wanted) == len(have) and all(
                _same(one, other) for one, other in zip(_ordered(wanted), _ordered(have), strict=True)
            )
        case bool(), _:
            return wanted is have
        case ((int() | float()), (int() | float())):
            return math.isclose(wanted, have, rel_tol=1e-3)
        case _:
            return bool(wanted == have)


def _ordered(values: list[Any]) -> list[Any]:
    return sorted(values, key=lambda value: str(value.get("name")) if isinstance(value, dict) else str(value))
