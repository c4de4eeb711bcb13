"""Adapters of the scripted provider, one for direct media and one for bridged media and recorded turns.

A manifest names its factories as text, so a factory cannot be given its provider. It finds the provider by the base URL
that is unique to each `ScriptedProvider`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from agentfield.errors import NotFound, ProviderError
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime, CallRef, SdpAnswer
from agentfield.testing.scripted.call import ScriptedCall
from agentfield.testing.scripted.provider import AUDIO_FORMATS, ScriptedProvider, provider_at

__all__ = ["ANSWER_SDP", "bridged", "direct"]

ANSWER_SDP: Final = "\r\n".join(
    (
        "v=0",
        "o=- 1 1 IN IP4 127.0.0.1",
        "s=scripted",
        "t=0 0",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "c=IN IP4 127.0.0.1",
        "a=ice-ufrag:scripted",
        "a=ice-pwd:scriptedscriptedscripted",
        f"a=fingerprint:sha-256 {':'.join(['00'] * 32)}",
        "a=setup:active",
        "a=rtpmap:111 opus/48000/2",
        "",
    )
)
"""The answer to every offer: there is no peer connection and no audio."""


class _DirectAdapter:
    """A `DirectAdapter` whose calls have no peer connection."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self._provider = provider
        self._calls: dict[str, ScriptedCall] = {}

    async def negotiate(self, offer: str, config: SessionConfig) -> SdpAnswer:  # noqa: ARG002 - there is no peer to reach
        call = self._provider.open_call(config, None)
        call_id = f"call-{len(self._provider.calls)}"
        self._calls[call_id] = call
        return SdpAnswer(sdp=ANSWER_SDP, ref={"call_id": call_id})

    async def attach(self, ref: CallRef, config: SessionConfig) -> ScriptedCall:
        call = self._calls.get(ref["call_id"])
        if call is None:
            raise NotFound("the scripted provider has no such call")
        if call.ended:
            call = self._calls[ref["call_id"]] = self._provider.open_call(config, None)
        return call

    async def hang_up(self, ref: CallRef) -> None:
        call = self._calls.pop(ref["call_id"], None)
        if call is not None:
            call.hangs_up()


class _BridgedAdapter:
    """A `BridgedAdapter` for streams and for recorded turns."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self._provider = provider

    @property
    def formats(self) -> Sequence[AudioFormat]:
        return AUDIO_FORMATS

    async def open(self, config: SessionConfig, audio: AudioFormat) -> ScriptedCall:
        return self._provider.open_call(config, audio)


def _provider_of(runtime: AdapterRuntime) -> ScriptedProvider:
    provider = provider_at(runtime.base_url)
    if provider is None:
        raise ProviderError(
            "the scripted provider no longer exists", hint="keep the ScriptedProvider object for the whole test"
        )
    return provider


@asynccontextmanager
async def direct(runtime: AdapterRuntime) -> AsyncIterator[_DirectAdapter]:
    """Enter the adapter for media that does not pass through the control plane."""
    yield _DirectAdapter(_provider_of(runtime))


@asynccontextmanager
async def bridged(runtime: AdapterRuntime) -> AsyncIterator[_BridgedAdapter]:
    """Enter the adapter for media that the control plane carries."""
    yield _BridgedAdapter(_provider_of(runtime))
