"""Manifest of the plugin: the provider `openrouter` over `audio_turns`, and its capabilities; imports nothing heavy."""

from __future__ import annotations

from agentfield.plugins import Capabilities, Catalog, Manifest, ModelPrices, PairSpec, ProviderSpec, hookimpl

__all__ = ["agentfield_manifest", "turns_capabilities"]

API = (2, 2)
"""Version of the plugin contract that this manifest uses."""

_OPENROUTER = ProviderSpec(
    name="openrouter",
    title="OpenRouter",
    key_setting="OPENROUTER_API_KEY",
    url_setting="OPENROUTER_BASE_URL",
    default_url="https://openrouter.ai/api/v1",
    models=Catalog(known=("openai/gpt-audio", "openai/gpt-audio-mini"), default="openai/gpt-audio"),
    voices=Catalog(known=("alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse"), default="alloy"),
    prices=(
        ModelPrices(model="openai/gpt-audio", input_text=2.5, input_audio=32.0, output_text=10.0, output_audio=64.0),
    ),
)


def turns_capabilities(default_transcription: str, *, pinned: bool = True) -> Capabilities:
    """Return the capabilities of audio turns, equal for every server of streamed chat completions with audio.

    Args:
        default_transcription: Model that transcribes the caller if the declaration names none.
        pinned: Whether the provider is a router that is told not to route.
    """
    return Capabilities(
        say="best_effort",
        uninterruptible=True,
        floors=frozenset({"handler", "model"}),
        turn_detection=frozenset({"manual"}),
        modalities=frozenset({"audio", "text"}),
        tools="sync",
        caller_transcript="final",
        agent_transcript="streaming",
        default_transcription=default_transcription,
        interruption="client",
        truncation="estimate",
        answers_after=frozenset(),
        text_input=True,
        resumption="stateless",
        usage="cost",
        max_duration=None,
        routing="pinned" if pinned else "fixed",
        echoes=frozenset(),
        limits=frozenset({"duration", "idle", "turns", "tool_calls", "cost"}),
        formats=frozenset({"pcm16/24000"}),
    )


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return the manifest of this plugin."""
    return Manifest(
        api=API,
        providers=(_OPENROUTER,),
        pairs=(
            PairSpec(
                provider="openrouter",
                transport="audio_turns",
                factory="agentfield_openrouter.adapter:audio_turns",
                media="turns",
                capabilities=turns_capabilities("openai/gpt-4o-mini-transcribe"),
                options="agentfield_openrouter.options:TurnsOptions",
                requires=("aiohttp",),
                notes=(
                    "The caller records a turn, the control plane sends it; fallbacks of the router are switched off "
                    "for answers, its transcription endpoint has no such setting."
                ),
            ),
        ),
    )
