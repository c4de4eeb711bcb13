"""Sans-I/O: builds the request bodies of a session, and refuses models that route.

Sources: https://openrouter.ai/docs/features/multimodal/audio and
https://openrouter.ai/docs/guides/routing/provider-selection
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from agentfield.adapterkit.tool_names import ToolNames
from agentfield.errors import InvalidInput
from agentfield.realtime.config import SessionConfig, ToolSpec
from agentfield_openrouter.history import Message, wav
from agentfield_openrouter.options import TurnsOptions

__all__ = ["RequestBuilder", "check_model"]

Body = dict[str, Any]

_SAY = (
    "You are a text-to-speech voice. Speak exactly the text between <say> and </say>, word for word, in its language. "
    "Add nothing, answer nothing."
)
_ROUTERS = re.compile(r"(?i)^(?:openrouter/.*|~.*|.*@preset/.*|@preset.*|.*:(?:online|nitro|floor|exacto))$")
_VOICE = "alloy"
_MAX_USER = 128


def check_model(model: str, target: str) -> None:
    """Refuse a model name with which the provider selects or changes the model itself.

    Args:
        model: The model name.
        target: The session, for the error message.

    Raises:
        InvalidInput: The name is a router, a preset or a routing variant (code `model_not_pinned`).
    """
    if _ROUTERS.fullmatch(model.strip()):
        raise InvalidInput(
            f"Session {target} asks for {model!r}, a name with which the provider selects or changes the model itself.",
            code="model_not_pinned",
            hint="name one model, such as model='openai/gpt-audio', in the session's declaration",
            field="model",
        )


class RequestBuilder:
    """Builds the requests of one session.

    Args:
        config: The frozen configuration.
        rate: Samples per second of the caller's audio.
        pinned: Whether requests forbid routing (understood by OpenRouter only).

    Raises:
        InvalidInput: The `options` are invalid, or the model cannot be pinned.
    """

    def __init__(self, config: SessionConfig, *, rate: int = 24_000, pinned: bool = True) -> None:
        if pinned:
            check_model(config.model, config.target)
        self.options = TurnsOptions.of(config)
        self.names = ToolNames(tool.target for tool in config.tools)
        self.speaks = "audio" in config.modalities
        self._config = config
        self._rate = rate
        self._pinned = pinned

    def reply(
        self,
        history: Sequence[Message],
        *,
        instructions: str | None = None,
        tools: Sequence[str] | None = None,
        has_calls: bool = False,
    ) -> Body:
        """Return the request for a reply.

        Args:
            history: The conversation.
            instructions: Instructions for this reply, added to those of the session.
            tools: Targets that it may call; None allows all declared ones.
            has_calls: Whether the history holds tool calls; some models accept those only together with the tools.
        """
        parts = (self._config.declaration.instructions, instructions)
        system = "\n\n".join(part for part in parts if part)
        head: list[Message] = [{"role": "system", "content": system}] if system else []
        body = self._body([*head, *history])
        offered = self._offered(tools)
        if offered:
            body["tools"] = [self._function(tool) for tool in offered]
            body["tool_choice"] = "auto"
            if self.options.parallel_tool_calls is not None:
                body["parallel_tool_calls"] = self.options.parallel_tool_calls
        elif has_calls and self._config.tools:
            body["tools"] = [self._function(tool) for tool in self._config.tools]
            body["tool_choice"] = "none"
        return body

    def say(self, text: str) -> Body:
        """Return the request that reads `text` aloud, in a conversation of its own."""
        spoken = {"role": "user", "content": f"<say>{escape(text)}</say>"}
        return self._body([{"role": "system", "content": _SAY}, spoken])

    def transcription(self, pcm: bytes) -> Body:
        """Return the transcription request of a turn; OpenRouter takes JSON here instead of a form."""
        body: Body = {"model": self._config.transcription, "input_audio": {"data": pcm, "format": "wav"}}
        if self.options.language is not None:
            body["language"] = self.options.language
        return body

    def encode(self, body: Body) -> bytes:
        """Return a body as JSON, with recordings as base64 WAV files; slow for long recordings, so call it in a thread."""
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=self._wav)
        return text.encode("utf-8", "replace")

    def headers(self) -> dict[str, str]:
        """Return the headers that identify the application to the provider."""
        return {} if self.options.title is None else {"X-Title": self.options.title}

    def _wav(self, value: object) -> str:
        if not isinstance(value, bytes):
            raise TypeError(f"{type(value).__name__} is not JSON")
        return base64.b64encode(wav(value, self._rate)).decode()

    def _body(self, messages: list[Message]) -> Body:
        body: Body = {
            "model": self._config.model,
            "messages": messages,
            "modalities": ["text", "audio"] if self.speaks else ["text"],
            "stream": True,
            "stream_options": {"include_usage": True},
            "session_id": self._config.session_id,
        }
        if self.speaks:
            body["audio"] = {"voice": self._config.voice or _VOICE, "format": "pcm16"}
        if self._config.safety_id is not None:
            body["user"] = self._config.safety_id[:_MAX_USER]
        if self.options.temperature is not None:
            body["temperature"] = self.options.temperature
        if self.options.max_output_tokens is not None:
            body["max_tokens"] = self.options.max_output_tokens
        if self._pinned:
            body["provider"] = self._routing()
        return body

    def _routing(self) -> Body:
        routing: Body = {"allow_fallbacks": False, "require_parameters": True}
        if self.options.upstream:
            routing["only"] = list(self.options.upstream)
            routing["order"] = list(self.options.upstream)
        return routing

    def check_tools(self, targets: Sequence[str] | None) -> None:
        """Refuse a reply that names undeclared tools.

        Raises:
            InvalidInput: A target is not one of the session's tools (code `unknown_tool`).
        """
        for target in targets or ():
            if target not in self.names:
                declared = ", ".join(tool.target for tool in self._config.tools) or "none"
                raise InvalidInput(
                    f"A reply may call {target}, which is none of the session's tools (declared: {declared}).",
                    code="unknown_tool",
                    hint="name it in tools=[...] of the session",
                    field="tools",
                )

    def _offered(self, targets: Sequence[str] | None) -> Sequence[ToolSpec]:
        return [tool for tool in self._config.tools if targets is None or tool.target in targets]

    def _function(self, tool: ToolSpec) -> Body:
        function = {
            "name": self.names.safe(tool.target),
            "description": tool.description,
            "parameters": tool.parameters,
        }
        return {"type": "function", "function": function}
