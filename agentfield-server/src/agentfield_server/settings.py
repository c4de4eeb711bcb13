"""Settings of a control plane, read from its environment; plugins and OpenTelemetry read their own variables."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from agentfield.errors import InvalidInput

__all__ = ["Settings"]

_CONCURRENCY = "must be like openai=50,local=4, or a JSON object of numbers"


class Settings(BaseSettings):
    """Settings of a control plane. Each field is read from the environment variable of its name, prefixed ``AGENTFIELD_``."""

    model_config = SettingsConfigDict(env_prefix="AGENTFIELD_", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    """TCP port; 0 selects a free one."""
    home: Path = Field(default_factory=lambda: Path.home() / ".agentfield")
    """The data directory: everything that survives a restart."""
    api_key: SecretStr | None = None
    """The operator's key; without one, only loopback addresses can be bound."""
    public_url: str | None = None
    """The public base URL, if it differs from the bound address."""
    web_dir: Path | None = None
    """A directory of static files served at the root, same-origin (`af dev`)."""
    allowed_origins: tuple[str, ...] = ()
    """Foreign origins whose pages may use the REST interface, exactly as browsers send them."""
    code_ttl: float = Field(default=600.0, gt=0)
    """Lifetime of the one-time code in a page address, in seconds."""

    webhook_secret: SecretStr | None = None
    """Secret that signs webhooks in both directions; at least 16 characters."""
    webhook_allow: tuple[str, ...] = ()
    """Hosts, addresses and networks outside the public internet that webhooks may be sent to."""
    max_queued: PositiveInt = 10_000
    """Maximum executions queued for one node; further ones are refused with 429, except those of live calls."""
    retention_days: float | None = Field(default=None, ge=1)
    """Days without an event after which an ended run is pruned; None disables automatic pruning."""
    provider_concurrency: Annotated[dict[str, PositiveInt], NoDecode] = Field(default_factory=dict)
    """Maximum concurrent sessions per key of a provider, instead of the plugin's declaration: ``openai=50,local=4`` or a JSON
    object."""
    otel_content: bool = False
    """Whether spans contain inputs, outputs and the text of turns."""
    prices: Path | None = None
    """A TOML file with prices that override those of the plugins (see `agentfield_server.sessions.price_file`)."""

    @field_validator("provider_concurrency", mode="before")
    @classmethod
    def _read_concurrency(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("{"):
            try:
                return json.loads(value)
            except ValueError:
                raise ValueError(_CONCURRENCY) from None
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not name.strip() or not limit.strip().isdecimal() for name, _, limit in pairs):
            raise ValueError(_CONCURRENCY)
        return {name.strip(): int(limit) for name, _, limit in pairs}

    @field_validator("api_key", "webhook_secret")
    @classmethod
    def _key_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("must have at least 16 characters")
        return value

    @property
    def loopback(self) -> bool:
        """Whether `host` is a loopback address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def require_safe_bind(self) -> None:
        """Reject a non-loopback bind without a key.

        Raises:
            InvalidInput: `host` is not a loopback address and there is no `api_key`.
        """
        if not self.loopback and self.api_key is None:
            raise InvalidInput(
                f"The control plane was asked to listen on {self.host}, where others can reach it, without a key.",
                code="key_required",
                hint="set AGENTFIELD_API_KEY to a secret of at least 16 characters, or use --host 127.0.0.1",
                field="host",
            )
