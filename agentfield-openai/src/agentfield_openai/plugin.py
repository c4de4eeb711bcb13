"""The manifest: what `openai` is, over which transports it is reached and what each of them can do. Light on purpose."""

from __future__ import annotations

from agentfield.plugins import Capabilities, Manifest, Names, PairSpec, ProviderInfo, hookimpl

__all__ = ["agentfield_manifest", "realtime_capabilities"]

API = (1, 0)
"""The plugin contract that this was written for."""

_OPENAI = ProviderInfo(
    name="openai",
    title="OpenAI Realtime",
    key_setting="OPENAI_API_KEY",
    url_setting="OPENAI_BASE_URL",
    default_url="https://api.openai.com/v1",
    models=Names(
        known=("gpt-realtime-2", "gpt-realtime-2.1", "gpt-realtime-2.1-mini", "gpt-realtime-1.5"),
        default="gpt-realtime-2",
    ),
    voices=Names(
        known=("alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse"),
        default="marin",
    ),
)


def realtime_capabilities(default_transcription: str) -> Capabilities:
    """Return what a Realtime call over WebRTC can do, the same for every server of the protocol.

    Args:
        default_transcription: The model that transcribes the caller when the declaration names none.
    """
    return Capabilities(
        say="best_effort",
        floors=frozenset({"handler", "model"}),
        turn_detection=frozenset({"server_vad", "semantic_vad", "manual"}),
        modalities=frozenset({"audio", "text"}),
        tools="async",
        caller_transcript="partial",
        agent_transcript="streaming",
        default_transcription=default_transcription,
        interruption="server",
        truncation="server",
        text_input=True,
        resumption="attach",
        usage="tokens",
        max_duration=3600.0,
        routing="fixed",
        limits=frozenset({"duration", "idle", "turns", "tool_calls"}),
    )


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return what this plugin brings."""
    return Manifest(
        api=API,
        providers=(_OPENAI,),
        pairs=(
            PairSpec(
                provider="openai",
                transport="webrtc",
                factory="agentfield_openai.webrtc:webrtc",
                media="direct",
                capabilities=realtime_capabilities("gpt-transcribe"),
                options="agentfield_openai.options:OpenAIOptions",
                requires=("websockets",),
                notes=(
                    "Media flows between the caller and OpenAI; the control plane holds the key and the sideband. "
                    "Instructions and tool names are visible to the caller's data channel."
                ),
            ),
        ),
    )
