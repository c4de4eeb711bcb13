"""Settings of a control plane, read in this one place."""

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
    """How a control plane runs. Each field is read from the environment variable of its name behind ``AGENTFIELD_``."""

    model_config = SettingsConfigDict(env_prefix="AGENTFIELD_", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    """0 takes a free port."""
    home: Path = Field(default_factory=lambda: Path.home() / ".agentfield")
    """The folder of everything that survives a restart."""
    api_key: SecretStr | None = None
    """The operator's key; without one only the machine itself may connect."""
    public_url: str | None = None
    """The address under which browsers reach the control plane, when it is not the bound one."""
    web_dir: Path | None = None
    """A folder of static files served at the root, same-origin (`af dev`)."""
    allowed_origins: tuple[str, ...] = ()
    """Further origins whose pages may use the REST interface, exactly as browsers send them."""
    code_ttl: float = Field(default=600.0, gt=0)
    """Seconds that the one-time code of a page address may be exchanged."""

    webhook_secret: SecretStr | None = None
    """Signs what other systems send us and we send them; at least 16 characters."""
    webhook_allow: tuple[str, ...] = ()
    """Hosts, addresses and networks beyond the public internet that webhooks may be sent to."""
    max_queued: PositiveInt = 10_000
    """How many executions may wait for one node before more are refused with 429; live calls may go beyond."""
    retention_days: float | None = Field(default=None, ge=1)
    """After how many days without an event a run that ended is taken away; never by itself when None."""
    provider_concurrency: Annotated[dict[str, PositiveInt], NoDecode] = Field(default_factory=dict)
    """How many sessions one key of a provider may have at once, where that is not what the provider's plugin declares;
    ``openai=50,local=4`` or a JSON object."""
    otel_content: bool = False
    """Whether spans carry inputs, outputs and the words of turns."""
    prices: Path | None = None
    """A TOML file with prices that go over those of the plugins (see `agentfield_server.sessions.prices`)."""

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
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def require_safe_bind(self) -> None:
        """Refuse to listen beyond this machine without a key.

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
