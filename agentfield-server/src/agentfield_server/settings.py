"""Settings of a control plane, read from its environment; plugins and OpenTelemetry read their own variables."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from agentfield.errors import InvalidInput
from agentfield.schema import validation_message
from agentfield.settings import is_sendable

__all__ = ["Settings", "read_settings"]

_CONCURRENCY = "must be like openai=50,local=4, or a JSON object of numbers"
_TAGS = "must be like twilio=public,telnyx=partner"
_LIST = "must be values separated by commas, or a JSON array of texts"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OPTIONS = {"host": "--host", "port": "--port", "home": "--data", "tls_cert": "--tls-cert", "tls_key": "--tls-key"}
"""Command-line options by setting."""


def _read_list(value: Any) -> Any:
    """Read a comma-separated list or a JSON array."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    try:
        return tuple(json.loads(value))
    except (ValueError, RecursionError):
        raise ValueError(_LIST) from None


def _expand_user(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


_List = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_read_list)]
_UserPath = Annotated[Path, AfterValidator(_expand_user)]


class Settings(BaseSettings):
    """Settings of a control plane. Each field is read from the environment variable of its name, prefixed ``AGENTFIELD_``."""

    model_config = SettingsConfigDict(env_prefix="AGENTFIELD_", env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """TCP port; 0 selects a free one."""
    home: _UserPath = Field(default_factory=lambda: Path.home() / ".agentfield")
    """The data directory: everything that survives a restart."""
    api_key: SecretStr | None = None
    """A key with all scopes, at least 16 characters; without one, and without keys in the store, only loopback can be bound."""
    public_url: str | None = Field(default=None, examples=["https://voice.example.com"])
    """The public base URL, if it differs from the bound address."""
    identity_key: _UserPath | None = None
    """A PEM file with the Ed25519 key that signs credentials; by default `control_plane.pem` in `home`, made at the first start."""
    identity_key_before: _UserPath | None = None
    """The PEM file of the key that `identity_key` replaces, for the one start that records the rotation."""
    web_dir: _UserPath | None = None
    """A directory of static files served at the root, same-origin (`af dev`)."""
    allowed_origins: _List = Field(default=(), examples=["https://app.example.com,http://localhost:3000"])
    """Foreign origins whose pages may use the REST interface: a comma list or a JSON array."""
    trusted_proxies: _List = Field(default=(), examples=["10.0.0.0/8,127.0.0.1"])
    """Addresses and networks of proxies whose X-Forwarded-For is believed: a comma list or a JSON array."""
    tls_cert: _UserPath | None = None
    """A PEM file with the certificate of the control plane and its chain; with it, HTTPS is served."""
    tls_key: _UserPath | None = None
    """The PEM file of the certificate's key, if it is not in the same file."""
    tls_client_ca: _UserPath | None = None
    """A PEM file with the authorities of clients' certificates; with it, every connection needs one (mutual TLS)."""
    code_ttl: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """Lifetime of the one-time code in a page address, in seconds."""

    webhook_secret: SecretStr | None = None
    """Secret that signs webhooks in both directions; at least 16 characters."""
    webhook_allow: _List = Field(default=(), examples=["10.0.0.0/8,hooks.internal"])
    """Hosts, addresses and networks outside the public internet that webhooks may be sent to: a comma list or a JSON array."""
    max_queued: PositiveInt = 10_000
    """Maximum executions queued for one node; further ones are refused with 429, except those of live calls."""
    retention_days: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """Days without an event after which an ended run is pruned; None disables automatic pruning."""
    provider_concurrency: Annotated[dict[str, PositiveInt], NoDecode] = Field(
        default_factory=dict, examples=["openai=50,local=4"]
    )
    """Maximum concurrent sessions per key of a provider, instead of the plugin's declaration: ``openai=50,local=4`` or a JSON
    object."""
    otel_content: bool = False
    """Whether spans contain inputs, outputs and the text of turns."""
    policies: _UserPath | None = None
    """A TOML file with the rules of access (see `agentfield_server.access.policy_file`)."""
    transport_tags: Annotated[dict[str, tuple[str, ...]], NoDecode] = Field(
        default_factory=dict, examples=["twilio=public,telnyx=partner"]
    )
    """Tags of the transports that start sessions, as rules of access name them: ``twilio=public,twilio=phone``."""
    prices: _UserPath | None = None
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

    @field_validator("transport_tags", mode="before")
    @classmethod
    def _read_tags(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        found: dict[str, tuple[str, ...]] = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            name, _, tag = (each.strip() for each in part.partition("="))
            if not name or not tag:
                raise ValueError(_TAGS)
            found[name] = (*found.get(name, ()), tag)
        return found

    @field_validator("api_key", "webhook_secret")
    @classmethod
    def _key_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("must have at least 16 characters")
        return value

    @field_validator("api_key")
    @classmethod
    def _key_is_sendable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_sendable(value.get_secret_value()):
            raise ValueError("must consist of printable ASCII characters, without a space at its ends")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is not None and _origin(value) is None:
            raise ValueError(f"must be an http or https address, not {value[:200]!r}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                ipaddress.ip_network(value, strict=False)
            except ValueError:
                raise ValueError(f"{value[:200]!r} is no address or network") from None
        return values

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_checked_origin(value) for value in values)

    @property
    def loopback(self) -> bool:
        """Whether `host` is a loopback address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def development(self) -> bool:
        """Whether these settings allow development mode: on loopback, without a key, with no public address."""
        return self.loopback and self.api_key is None and self.public_url is None

    def require_key(self, *, ever: bool, usable: bool) -> None:
        """Reject a start without a key where others may reach the control plane, or where keys were made.

        Args:
            ever: Whether a key was ever made in this store.
            usable: Whether an operator's key is valid now.

        Raises:
            InvalidInput: There is no key, and this is not development mode (code `key_required`).
        """
        if usable or (self.development and not ever):
            return
        if not self.loopback:
            why, other = f"listen on {self.host}, where others can reach it,", ", or use --host 127.0.0.1"
        elif self.public_url is not None:
            why, other = f"serve {self.public_url}, where others can reach it,", ", or unset AGENTFIELD_PUBLIC_URL"
        else:
            why, other = "open a store that has keys, but no valid one with the scope operator,", ""
        raise InvalidInput(
            f"The control plane was asked to {why} without a key.",
            code="key_required",
            hint=f"set AGENTFIELD_API_KEY to a secret of at least 16 characters{other}",
            field="host" if not self.loopback else "api_key",
        )


def read_settings(**given: Any) -> Settings:
    """Return the settings of a control plane: given values first, the rest from the environment.

    Args:
        given: Values by setting; None counts as not given.

    Raises:
        InvalidInput: A value is invalid (code `bad_setting`).
    """
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))
        why = validation_message(first["type"], first["msg"].removeprefix("Value error, "))
        raise _bad_setting(str(first["loc"][0]), name, why) from None
    except SettingsError as error:
        raise InvalidInput(f"The environment cannot be read: {error}.", code="bad_setting") from None
    # a given one may be made while the control plane runs: the `web` folder of a project
    if settings.web_dir is not None and "web_dir" not in given and not _is_folder(settings.web_dir):
        raise _bad_setting("web_dir", "web_dir", f"{settings.web_dir} is not a directory")
    return settings


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a folder above that may not be read
        return False


def _bad_setting(setting: str, name: str, why: str) -> InvalidInput:
    variable, option = f"AGENTFIELD_{setting.upper()}", _OPTIONS.get(setting)
    examples = Settings.model_fields[setting].examples
    example = f"; an example: {variable}={examples[0]}" if examples else ""
    return InvalidInput(
        f"The setting {name} is invalid: {why}.",
        code="bad_setting",
        hint=f"check {variable}{f' and {option}' if option else ''}{example}",
        field=name,
    )


def _checked_origin(value: str) -> str:
    origin = _origin(value)
    parts = urlsplit(value.rstrip("/")) if origin is not None else None
    if origin is None or parts is None or parts.path or parts.query or parts.fragment:
        raise ValueError(f"{value[:200]!r} is no origin; one is a scheme and a host, without a path")
    return origin


def _origin(url: str) -> str | None:
    """Return the origin of an http or https URL as browsers send it, None for anything else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not host or parts.username is not None:
        return None
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, _DEFAULT_PORTS[parts.scheme]) else "")
