"""Settings of a control plane: limits of providers, price file, refused values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput
from agentfield_server.settings import Settings, read_settings


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
        read_settings()
    assert str(refused.value) == (
        "The setting provider_concurrency is invalid: must be like openai=50,local=4, or a JSON object of numbers.\n"
        "  hint: check AGENTFIELD_PROVIDER_CONCURRENCY; an example: AGENTFIELD_PROVIDER_CONCURRENCY=openai=50,local=4"
    )


@pytest.mark.parametrize("text", ["openai=0", '{"openai": 0}', '{"openai": "many"}', '{"openai": 1.5}'])
def test_a_limit_is_a_positive_integer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A limit below one is refused with the name of its provider."""
    monkeypatch.setenv("AGENTFIELD_PROVIDER_CONCURRENCY", text)
    with pytest.raises(InvalidInput, match=r"provider_concurrency\.openai"):
        read_settings()


@pytest.mark.parametrize("key", ["a-key-of-16-or-more ", "a-key-of-16-or-more\r", "ein-schlüssel-von-16"])
def test_a_key_that_no_request_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A control plane with such a key would reject everybody."""
    monkeypatch.setenv("AGENTFIELD_API_KEY", key)
    with pytest.raises(InvalidInput, match="printable ASCII characters") as refused:
        read_settings()
    assert refused.value.code == "bad_setting"


def test_the_price_file_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is the path of the price file; None by default."""
    assert Settings().prices is None
    monkeypatch.setenv("AGENTFIELD_PRICES", "/etc/prices.toml")
    assert str(Settings().prices) == "/etc/prices.toml"


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("https://app.example", ("https://app.example",)),
        (" https://App.example/ , http://localhost:3000 ,", ("https://app.example", "http://localhost:3000")),
        ('["https://app.example"]', ("https://app.example",)),
        ("https://app.example:443,http://[::1]:80", ("https://app.example", "http://[::1]")),
        ("", ()),
    ],
)
def test_allowed_origins_are_a_comma_list(monkeypatch: pytest.MonkeyPatch, text: str, origins: tuple[str, ...]) -> None:
    """A comma list and a JSON array are both accepted; origins are stored as browsers send them."""
    monkeypatch.setenv("AGENTFIELD_ALLOWED_ORIGINS", text)
    assert read_settings().allowed_origins == origins


@pytest.mark.parametrize(
    "text", ["*", "null", "app.example", "https://a.example/page", "https://a:b@c", "http://[", "[1]", "[["]
)
def test_an_invalid_origin_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Wildcards, paths and names without a scheme are refused with an example."""
    monkeypatch.setenv("AGENTFIELD_ALLOWED_ORIGINS", text)
    with pytest.raises(InvalidInput) as refused:
        read_settings()
    assert refused.value.code == "bad_setting"
    assert refused.value.hint == (
        "check AGENTFIELD_ALLOWED_ORIGINS; an example: "
        "AGENTFIELD_ALLOWED_ORIGINS=https://app.example.com,http://localhost:3000"
    )


def test_networks_of_webhooks_are_a_comma_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second list is read in the same two forms."""
    for text in ("10.0.0.0/8, hooks.internal", '["10.0.0.0/8", "hooks.internal"]'):
        monkeypatch.setenv("AGENTFIELD_WEBHOOK_ALLOW", text)
        assert read_settings().webhook_allow == ("10.0.0.0/8", "hooks.internal")


def test_a_folder_of_files_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder that does not exist would serve nothing without a word; the one of a project may be made later."""
    monkeypatch.setenv("AGENTFIELD_WEB_DIR", str(tmp_path / "wbe"))
    with pytest.raises(InvalidInput, match="wbe is not a directory") as refused:
        read_settings()
    assert (refused.value.code, refused.value.hint) == ("bad_setting", "check AGENTFIELD_WEB_DIR")
    assert read_settings(web_dir=tmp_path / "web").web_dir == tmp_path / "web"
    monkeypatch.setenv("AGENTFIELD_WEB_DIR", str(tmp_path))
    assert read_settings().web_dir == tmp_path


@example(name="web_dir", text="nothing\uffff")
@example(name="prices", text="~nobody-of-that-name")
@given(
    name=st.sampled_from(sorted(Settings.model_fields)),
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
)
def test_any_text_is_a_setting_or_a_typed_error(name: str, text: str) -> None:
    """Whatever a variable holds, the settings are read or refused with the variable's name; nothing else is raised."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(f"AGENTFIELD_{name.upper()}", text)
        try:
            read_settings()
        except InvalidInput as error:
            refused = error
        else:
            return
    assert refused.code == "bad_setting"
    assert f"AGENTFIELD_{name.upper()}" in (refused.hint or "")
