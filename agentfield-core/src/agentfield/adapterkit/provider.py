"""Whom an adapter talks to."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from agentfield.adapterkit.redact import redact
from agentfield.errors import ProviderError

__all__ = ["Provider"]


@dataclass(frozen=True, slots=True)
class Provider:
    """Who is talked to: what is needed to reach it and to speak of it."""

    title: str
    """Its name in messages."""
    base_url: str
    """Its address, which paths are appended to (`agentfield.adapterkit.network.check_base_url`)."""
    key: SecretStr | None
    key_setting: str | None = None
    """Where the key comes from; None where the provider takes none."""
    url_setting: str | None = None
    """Where the address comes from; None where it cannot be set."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        return () if self.key is None else (self.key.get_secret_value(),)

    def bearer(self) -> dict[str, str]:
        """Return the header that proves who we are; none where no key is needed and there is none.

        Raises:
            ProviderError: A key is needed and there is none (code `key_missing`).
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
        """Return text of the provider's as one line of at most `limit` characters, without secrets."""
        return redact(text, *self.secrets, limit=limit)
