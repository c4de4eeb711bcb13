"""Address, credentials and dialect of a Realtime service, as the adapters of this package use it."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.urls import check_base_url
from agentfield.realtime.provider import AdapterRuntime
from agentfield_openai.codec.dialect import GA, Dialect

__all__ = ["RealtimeProvider", "openai_provider"]


@dataclass(frozen=True, slots=True)
class RealtimeProvider(ProviderEndpoint):
    """A service of the Realtime protocol: an endpoint with its dialect."""

    dialect: Dialect = field(default=GA)
    """Differences between the service and OpenAI."""


def openai_provider(runtime: AdapterRuntime) -> RealtimeProvider:
    """Return OpenAI's address and our key.

    Args:
        runtime: Services of the control plane for adapters.

    Raises:
        InvalidInput: OPENAI_BASE_URL is not a usable address.
    """
    return RealtimeProvider(
        title="OpenAI",
        base_url=check_base_url(runtime.base_url, "OPENAI_BASE_URL", example="https://api.openai.com/v1"),
        key=runtime.key,
        key_setting="OPENAI_API_KEY",
        url_setting="OPENAI_BASE_URL",
    )
