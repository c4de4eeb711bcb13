"""Manifest of the plugin: the provider `openai`, its transports and their capabilities; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from agentfield.plugins import Capabilities, Catalog, Manifest, ModelPrices, PairSpec, ProviderSpec, hookimpl

__all__ = ["agentfield_manifest", "realtime_capabilities"]

API = (2, 2)
"""Version of the plugin contract that this manifest uses."""

_OPENAI = ProviderSpec(
    name="openai",
    title="OpenAI Realtime",
    key_setting="OPENAI_API_KEY",
    url_setting="OPENAI_BASE_URL",
    default_url="https://api.openai.com/v1",
    models=Catalog(
        known=("gpt-realtime-2", "gpt-realtime-2.1", "gpt-realtime-2.1-mini", "gpt-realtime-1.5"),
        default="gpt-realtime-2",
    ),
    voices=Catalog(
        known=("alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse"),
        default="marin",
    ),
    # US dollars per million tokens, as published in 2026; a price file of the operator overrides them. Everything that
    # is not listed here (such as text, transcription and text-to-speech) has no price until such a file names it
    prices=(ModelPrices(model="gpt-realtime-2", input_audio=32.0, output_audio=64.0),),
    concurrency=None,
)


def realtime_capabilities(
    default_transcription: str,
    *,
    bridged: bool = False,
    say: Literal["exact", "best_effort", "none"] | None = None,
) -> Capabilities:
    """Return the capabilities of a Realtime session, equal for every server of the protocol.

    Args:
        default_transcription: Model that transcribes the caller if the declaration names none.
        bridged: Whether the control plane carries the audio (WebSocket) instead of a WebRTC call of the caller.
        say: The `say` capability; None means exact if bridged (needs a speech endpoint), else best effort.
    """
    return Capabilities(
        say=say or ("exact" if bridged else "best_effort"),
        uninterruptible=True,
        floors=frozenset({"handler", "model"}),
        turn_detection=frozenset({"server_vad", "semantic_vad", "manual"}),
        modalities=frozenset({"audio", "text"}),
        tools="async",
        caller_transcript="partial",
        agent_transcript="streaming",
        default_transcription=default_transcription,
        interruption="client" if bridged else "server",
        delays_interruption=not bridged,
        truncation="client_ms" if bridged else "server",
        text_input=True,
        resumption="replay" if bridged else "attach",
        usage="tokens",
        max_duration=None if bridged else 3600.0,  # a bridged session rotates before the provider ends it
        client_leg="none" if bridged else "watched",
        routing="fixed",
        limits=frozenset({"duration", "idle", "turns", "tool_calls", "cost"}),
        formats=frozenset({"pcm16/24000", "pcmu/8000", "pcma/8000"}) if bridged else frozenset(),
        dtmf=bridged,
    )


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return the manifest of this plugin."""
    return Manifest(
        api=API,
        providers=(_OPENAI,),
        pairs=(
            PairSpec(
                provider="openai",
                transport="webrtc",
                factory="agentfield_openai.webrtc_adapter:webrtc",
                media="direct",
                capabilities=realtime_capabilities("gpt-transcribe"),
                options="agentfield_openai.options:OpenAIOptions",
                requires=("websockets",),
                notes=(
                    "Media flows between the caller and OpenAI; the control plane holds the key and the sideband. "
                    "Instructions and tool names are visible to the caller's data channel."
                ),
            ),
            PairSpec(
                provider="openai",
                transport="websocket",
                factory="agentfield_openai.websocket_adapter:websocket",
                media="bridged",
                capabilities=realtime_capabilities("gpt-transcribe", bridged=True),
                options="agentfield_openai.options:WebSocketOptions",
                requires=("websockets",),
                notes=(
                    "The control plane carries the audio. OpenAI ends a session after 3600 s; before that a new one "
                    "takes over between two turns, with instructions, tools and history. say='exact' goes through "
                    "OpenAI's speech endpoint and needs pcm16/24000 at the provider's side."
                ),
            ),
        ),
    )
