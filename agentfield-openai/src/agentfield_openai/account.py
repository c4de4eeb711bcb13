"""OpenAI, and services of its protocol, as the adapters of this package talk to them."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentfield.adapterkit.network import check_base_url
from agentfield.adapterkit.provider import Provider
from agentfield.realtime.provider import AdapterRuntime
from agentfield_openai.codec.dialect import GA, Dialect

__all__ = ["RealtimeProvider", "openai_account"]


@dataclass(frozen=True, slots=True)
class RealtimeProvider(Provider):
    """A service of the Realtime protocol."""

    dialect: Dialect = field(default=GA)
    """What is particular to the service, where it is not OpenAI's own."""


def openai_account(runtime: AdapterRuntime) -> RealtimeProvider:
    """Return where OpenAI is and who we are to it.

    Args:
        runtime: What the control plane gives to adapters.

    Raises:
        InvalidInput: OPENAI_BASE_URL is not an address that can be used.
    """
    return RealtimeProvider(
        title="OpenAI",
        base_url=check_base_url(runtime.base_url, "OPENAI_BASE_URL", example="https://api.openai.com/v1"),
        key=runtime.key,
        key_setting="OPENAI_API_KEY",
        url_setting="OPENAI_BASE_URL",
    )
