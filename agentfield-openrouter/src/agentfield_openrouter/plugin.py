"""The manifest: what `openrouter` is, over which transport it is reached and what that can do. Light on purpose."""

from __future__ import annotations

from agentfield.plugins import Capabilities, Manifest, Names, PairSpec, Prices, ProviderInfo, hookimpl

__all__ = ["agentfield_manifest", "turns_capabilities"]

API = (1, 0)
"""The plugin contract that this was written for."""

_OPENROUTER = ProviderInfo(
    name="openrouter",
    title="OpenRouter",
    key_setting="OPENROUTER_API_KEY",
    url_setting="OPENROUTER_BASE_URL",
    default_url="https://openrouter.ai/api/v1",
    models=Names(known=("openai/gpt-audio", "openai/gpt-audio-mini"), default="openai/gpt-audio"),
    voices=Names(known=("alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse"), default="alloy"),
    prices=(Prices(model="openai/gpt-audio", input_text=2.5, input_audio=32.0, output_text=10.0, output_audio=64.0),),
)


def turns_capabilities(default_transcription: str, *, pinned: bool = True) -> Capabilities:
    """Return what audio turns can do, the same for every server of streamed chat completions that speak.

    Args:
        default_transcription: The model that transcribes the caller when the declaration names none.
        pinned: Whether the provider routes requests and is told not to.
    """
    return Capabilities(
        say="best_effort",
        floors=frozenset({"handler", "model"}),
        turn_detection=frozenset({"manual"}),
        modalities=frozenset({"audio", "text"}),
        tools="sync",
        caller_transcript="final",
        agent_transcript="streaming",
        default_transcription=default_transcription,
        interruption="client",
        truncation="estimate",
        text_input=True,
        resumption="stateless",
        usage="cost",
        max_duration=None,
        routing="pinned" if pinned else "fixed",
        limits=frozenset({"duration", "idle", "turns", "tool_calls", "cost"}),
        formats=frozenset({"pcm16/24000"}),
    )


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return what this plugin brings."""
    return Manifest(
        api=API,
        providers=(_OPENROUTER,),
        pairs=(
            PairSpec(
                provider="openrouter",
                transport="audio_turns",
                factory="agentfield_openrouter.turns:audio_turns",
                media="turns",
                capabilities=turns_capabilities("openai/gpt-4o-mini-transcribe"),
                options="agentfield_openrouter.options:TurnsOptions",
                requires=("aiohttp",),
                notes=(
                    "The caller records a turn, the control plane sends it; fallbacks of the router are switched off "
                    "for answers, its transcription endpoint cannot be told so."
                ),
            ),
        ),
    )
