"""The manifest: what `local` is and what a call to it can do. Light on purpose; the speech engines load in a process of their own."""

from __future__ import annotations

from agentfield.plugins import Capabilities, Manifest, Names, PairSpec, ProviderInfo, hookimpl

__all__ = ["agentfield_manifest"]

API = (1, 0)
"""The plugin contract that this was written for."""

_LOCAL = ProviderInfo(
    name="local",
    title="Local (offline speech)",
    url_setting="AGENTFIELD_LOCAL_URL",
    models=Names(known=("local-realtime-1",), closed=True, default="local-realtime-1"),
    voices=Names(known=("joe",), closed=True, default="joe"),
)

_WEBRTC = Capabilities(
    say="best_effort",
    floors=frozenset({"handler", "model"}),
    turn_detection=frozenset({"server_vad", "semantic_vad", "manual"}),
    modalities=frozenset({"audio", "text"}),
    tools="async",
    caller_transcript="partial",
    agent_transcript="streaming",
    default_transcription="moonshine-tiny-en",
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
        providers=(_LOCAL,),
        pairs=(
            PairSpec(
                provider="local",
                transport="webrtc",
                factory="agentfield_local.adapters:webrtc",
                media="direct",
                capabilities=_WEBRTC,
                options="agentfield_openai.options:OpenAIOptions",
                requires=("agentfield_openai",),
                notes=(
                    "English, offline, no key. A server process is started on first use and ends by itself a minute "
                    "after its last client; AGENTFIELD_LOCAL_URL uses one that runs already."
                ),
            ),
        ),
    )
