"""OpenAI as the adapters of this package talk to it."""

from __future__ import annotations

from agentfield.realtime.provider import AdapterRuntime
from agentfield_openai.network import check_base_url
from agentfield_openai.refusals import Provider

__all__ = ["openai_account"]


def openai_account(runtime: AdapterRuntime) -> Provider:
    """Return where OpenAI is and who we are to it.

    Args:
        runtime: What the control plane gives to adapters.

    Raises:
        InvalidInput: OPENAI_BASE_URL is not an address that can be used.
    """
    return Provider(
        title="OpenAI",
        base_url=check_base_url(runtime.base_url, "OPENAI_BASE_URL"),
        key=runtime.key,
        key_setting="OPENAI_API_KEY",
        url_setting="OPENAI_BASE_URL",
    )
