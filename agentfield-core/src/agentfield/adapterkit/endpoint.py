"""The endpoint of a provider: its address and key."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from agentfield.adapterkit.redact import redact
from agentfield.errors import ProviderError

__all__ = ["ProviderEndpoint"]


@dataclass(frozen=True, slots=True)
class ProviderEndpoint:
    """A provider: how to reach it, and how to name it in messages."""

    title: str
    """Name of the provider in messages."""
    base_url: str
    """Base URL without a trailing slash (`agentfield.adapterkit.urls.check_base_url`)."""
    key: SecretStr | None
    key_setting: str | None = None
    """Setting of the key; None if the provider needs none."""
    url_setting: str | None = None
    """Setting of the base URL; None if it is fixed."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Secrets to redact from texts."""
        return () if self.key is None else (self.key.get_secret_value(),)

    def bearer(self) -> dict[str, str]:
        """Return the `Authorization` header with the key; no header if no key is set and none is needed.

        Raises:
            ProviderError: The key is missing (code `key_missing`).
        """
        if self.key is not None and self.key.get_secret_value():
            return {"Authorization": f"Bearer {self.key.get_secret_value()}"}
        if self.key_setting is None:
            return {}
        raise ProviderError(
            f"{self.title} needs a key and there is none.",
            code="key_missing",
            hint=f"set {self.key_setting}",
            provider_code="key_missing",
        )

    def clean(self, text: str, limit: int = 300) -> str:
        """Return a text of the provider as one line of at most `limit` characters, without secrets."""
        return redact(text, *self.secrets, limit=limit)
