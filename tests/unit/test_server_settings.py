"""Settings of a control plane: how providers are limited, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agentfield.errors import InvalidInput
from agentfield_cli.serving import server_settings
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
    """A list of name=number and a JSON object are both read; nothing means no limits."""
    monkeypatch.setenv("AGENTFIELD_PROVIDER_CONCURRENCY", text)
    assert Settings().provider_concurrency == limits


@pytest.mark.parametrize("text", ["openai", "openai=", "=3", "openai=-1", "openai=many", "{openai", "openai=²"])
def test_limits_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What is no list of numbers is refused with an example."""
    monkeypatch.setenv("AGENTFIELD_PROVIDER_CONCURRENCY", text)
    with pytest.raises(InvalidInput) as refused:
        server_settings()
    assert str(refused.value) == (
        "The setting provider_concurrency does not fit: must be like openai=50,local=4, or a JSON object of numbers.\n"
        "  hint: look at AGENTFIELD_PROVIDER_CONCURRENCY"
    )


@pytest.mark.parametrize("text", ["openai=0", '{"openai": 0}', '{"openai": "many"}', '{"openai": 1.5}'])
def test_a_limit_is_a_whole_number_above_zero(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A provider that nobody could use is refused by name."""
    monkeypatch.setenv("AGENTFIELD_PROVIDER_CONCURRENCY", text)
    with pytest.raises(ValidationError, match=r"provider_concurrency\.openai"):
        Settings()


def test_prices_are_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of prices is named by its setting; by default there is none."""
    assert Settings().prices is None
    monkeypatch.setenv("AGENTFIELD_PRICES", "/etc/prices.toml")
    assert str(Settings().prices) == "/etc/prices.toml"
