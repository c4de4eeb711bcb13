"""Settings of a control plane: limits of providers, price file, refused values."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agentfield.errors import InvalidInput
from agentfield_cli.processes.serve import server_settings
from agentfield_server.settings import Settings


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("openai=50,local=4", {"openai": 50, "local": 4}),
        (" openai = 50 , local=4 ,", {"openai": 50, "local": 4}),
        ('{"openai": 50}', {"openai": 50}),
        ("", {}),
    ],
)
def test_limits_are_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, limits: dict[str, int]
) -> None:
    """A list of name=number and a JSON object are both accepted; the default is no limits."""
    monkeypatch.setenv("AGENTFIELD_PROVIDER_CONCURRENCY", text)
    assert Settings().provider_concurrency == limits


@pytest.mark.parametrize("text", ["openai", "openai=", "=3", "openai=-1", "openai=many", "{openai", "openai=²"])
def test_invalid_limits_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A value that is not a list of numbers is refused with an example."""
    monkeypatch.setenv("AGENTFIELD_PROVIDER_CONCURRENCY", text)
    with pytest.raises(InvalidInput) as refused:
        server_settings()
    assert str(refused.value) == (
        "The setting provider_concurrency is invalid: must be like openai=50,local=4, or a JSON object of numbers.\n"
        "  hint: check AGENTFIELD_PROVIDER_CONCURRENCY"
    )


@pytest.mark.parametrize("text", ["openai=0", '{"openai": 0}', '{"openai": "many"}', '{"openai": 1.5}'])
def test_a_limit_is_a_positive_integer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A limit below one is refused with the name of its provider."""
    monkeypatch.setenv("AGENTFIELD_PROVIDER_CONCURRENCY", text)
    with pytest.raises(ValidationError, match=r"provider_concurrency\.openai"):
        Settings()


def test_the_price_file_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is the path of the price file; None by default."""
    assert Settings().prices is None
    monkeypatch.setenv("AGENTFIELD_PRICES", "/etc/prices.toml")
    assert str(Settings().prices) == "/etc/prices.toml"
