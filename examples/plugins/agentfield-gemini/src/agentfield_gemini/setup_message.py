"""The first message of a session.

Source: https://ai.google.dev/api/live#BidiGenerateContentSetup.
"""

from __future__ import annotations

from typing import Any

from agentfield.adapterkit.tool_names import ToolNames
from agentfield.realtime.config import ServerVad, SessionConfig
from agentfield_gemini.options import GeminiOptions
from agentfield_gemini.schema import parameters_schema

__all__ = ["setup_message"]


def setup_message(
    config: SessionConfig, options: GeminiOptions, names: ToolNames, handle: str | None = None
) -> dict[str, Any]:
    """Return the setup of a session.

    Args:
        config: The frozen configuration of the session.
        options: Its options.
        names: The names of its tools.
        handle: The handle of a conversation to continue; None for a new one.
    """
    declared = config.declaration
    generation: dict[str, Any] = {"responseModalities": ["AUDIO"]}
    if options.temperature is not None:
        generation["temperature"] = options.temperature
    if config.voice is not None:
        generation["speechConfig"] = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": config.voice}}}
    setup: dict[str, Any] = {
        "model": config.model if "/" in config.model else f"models/{config.model}",
        "generationConfig": generation,
        "realtimeInputConfig": {"automaticActivityDetection": _detection(config, options)},
        "inputAudioTranscription": {"languageCodes": list(options.languages)} if options.languages else {},
        "outputAudioTranscription": {},
        "sessionResumption": {} if handle is None else {"handle": handle},
        # without it, a session with audio is ended after 15 minutes
        "contextWindowCompression": {"slidingWindow": {}},
    }
    if declared.instructions:
        setup["systemInstruction"] = {"parts": [{"text": declared.instructions}]}
    if config.tools:
        setup["tools"] = [{"functionDeclarations": [_function(names, tool) for tool in config.tools]}]
    return {"setup": setup}


def _detection(config: SessionConfig, options: GeminiOptions) -> dict[str, Any]:
    if not isinstance(config.turn_detection, ServerVad):
        return {"disabled": True}
    detection: dict[str, Any] = {"silenceDurationMs": config.turn_detection.silence_duration_ms}
    # `prefixPaddingMs` is how long the caller must speak until it counts as speech, and interrupts; it is not
    # `ServerVad.prefix_padding_ms`, the audio before the speech that is kept
    if config.declaration.interrupt_after_ms:
        detection["prefixPaddingMs"] = config.declaration.interrupt_after_ms
    if options.end_of_speech != "default":
        detection["endOfSpeechSensitivity"] = f"END_SENSITIVITY_{options.end_of_speech.upper()}"
    return detection


def _function(names: ToolNames, tool: Any) -> dict[str, Any]:
    # the newest models go on talking during a call unless it blocks; one answer follows each batch of results
    function: dict[str, Any] = {"name": names.safe(tool.target), "behavior": "BLOCKING"}
    if tool.description:
        function["description"] = tool.description
    parameters = parameters_schema(tool.parameters)
    return function if parameters is None else {**function, "parameters": parameters}
