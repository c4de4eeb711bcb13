"""The cost of a session: as reported by the provider, or computed from published prices and the user's price file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput
from agentfield.plugins.manifest.spec import ModelPrices, ProviderSpec
from agentfield.realtime.config import SessionConfig, SessionDeclaration
from agentfield.realtime.events import Usage
from agentfield_server.sessions.conversation.usage.pricing import compute_cost, make_pricer
from agentfield_server.sessions.price_file import load_prices

TALK = ModelPrices(model="talk-1", input_text=4.0, input_audio=32.0, cached=0.4, output_text=16.0, output_audio=64.0)
SCRIBE = ModelPrices(model="scribe-1", minute=0.006)
TEXT_ONLY = ModelPrices(model="text-1", input_text=2.0, output_text=8.0)
ACME = ProviderSpec(name="acme", title="Acme", prices=(TALK, SCRIBE, TEXT_ONLY))

tokens = st.integers(0, 10_000_000)
prices = st.floats(0, 1000)
usages = st.builds(
    Usage,
    input_text_tokens=tokens,
    input_audio_tokens=tokens,
    input_image_tokens=st.none() | tokens,
    input_video_tokens=st.none() | tokens,
    cached_tokens=st.none() | tokens,
    output_text_tokens=tokens,
    output_audio_tokens=tokens,
    thinking_tokens=st.none() | tokens,
)
tables = st.builds(
    ModelPrices,
    model=st.just("m"),
    input_text=prices,
    input_audio=prices,
    input_image=prices,
    input_video=prices,
    cached=st.none() | prices,
    output_text=prices,
    output_audio=prices,
    thinking=st.none() | prices,
)


def config(model: str = "talk-1", transcription: str | None = None, **options: str) -> SessionConfig:
    """Return a session's configuration with these models."""
    declaration = SessionDeclaration(
        name="voice", provider="acme", transport="websocket", floor="handler", options=options
    )
    return SessionConfig(
        session_id="ses_1",
        target="n.voice",
        declaration=declaration,
        model=model,
        voice=None,
        transcription=transcription,
    )


def used(**counts: float) -> Usage:
    """Return a usage with these counts."""
    return Usage.model_validate(counts)


def test_each_kind_of_token_has_its_price() -> None:
    """Text and audio tokens, input and output, are priced per million."""
    price = make_pricer(ACME, config())
    counts = {"input_text_tokens": 1000, "input_audio_tokens": 2000, "output_text_tokens": 500}
    cost = price("reply", used(**counts, output_audio_tokens=3000))
    assert cost == pytest.approx((1000 * 4 + 2000 * 32 + 500 * 16 + 3000 * 64) / 1e6)


KINDS = [name for name in Usage.model_fields if name.endswith("_tokens")]


@pytest.mark.parametrize("count", KINDS)
def test_every_count_of_a_usage_has_a_price_of_its_own(count: str) -> None:
    """Text, audio, images, video, cached input and thinking: each count is priced by the price of its name, and by no other."""
    name = count.removesuffix("_tokens")
    every = {field.name: 1.0 for field in dataclasses.fields(ModelPrices) if field.name not in ("model", "minute")}
    usage = used(**{count: 2_000_000}, **({"input_text_tokens": 2_000_000} if name == "cached" else {}))
    assert compute_cost(usage, ModelPrices(model="m", **{**every, name: 7.0})) == pytest.approx(14.0)
    assert (
        compute_cost(
            used(**{each: 1_000_000 for each in KINDS if each != "cached_tokens"}), ModelPrices(model="m", **every)
        )
        == len(KINDS) - 1
    )


def test_images_and_video_without_a_price_make_the_cost_unknown() -> None:
    """A table without prices of images and video says nothing about a reply that saw some."""
    for count in ("input_image_tokens", "input_video_tokens"):
        assert compute_cost(used(input_text_tokens=10, **{count: 1}), TALK) is None
        assert compute_cost(used(input_text_tokens=10, **{count: 0}), TALK) == pytest.approx(10 * 4 / 1e6)


def test_thinking_costs_as_written_text_without_a_price_of_its_own() -> None:
    """Tokens of thinking are in no other count; without their own price they cost as output text."""
    usage = used(output_text_tokens=1_000_000, thinking_tokens=500_000)
    assert compute_cost(usage, TALK) == pytest.approx(16.0 + 8.0)
    assert compute_cost(usage, dataclasses.replace(TALK, thinking=2.0)) == pytest.approx(16.0 + 1.0)
    assert compute_cost(usage, dataclasses.replace(TALK, output_text=None, thinking=2.0)) is None


def test_cached_images_are_cheaper_in_proportion() -> None:
    """Cached tokens reduce every kind of input in proportion, images and video among them."""
    table = dataclasses.replace(TALK, input_image=8.0, input_video=12.0)
    mixed = used(input_text_tokens=400, input_image_tokens=400, input_video_tokens=200, cached_tokens=500)
    assert compute_cost(mixed, table) == pytest.approx((200 * 4 + 200 * 8 + 100 * 12 + 500 * 0.4) / 1e6)


def test_cached_tokens_are_priced_once() -> None:
    """Cached tokens have the cached price only; without a cached price they are priced as input."""
    usage = used(input_text_tokens=1000, cached_tokens=600)
    assert compute_cost(usage, TALK) == pytest.approx((400 * 4 + 600 * 0.4) / 1e6)
    assert compute_cost(usage, dataclasses.replace(TALK, cached=None)) == pytest.approx(1000 * 4 / 1e6)
    assert compute_cost(used(input_audio_tokens=600, cached_tokens=600), TALK) == pytest.approx(600 * 0.4 / 1e6)
    mixed = used(input_text_tokens=500, input_audio_tokens=500, cached_tokens=500)
    assert compute_cost(mixed, TALK) == pytest.approx((250 * 4 + 250 * 32 + 500 * 0.4) / 1e6)


def test_seconds_are_priced_per_minute() -> None:
    """Usage in seconds is priced per minute; tokens have no price in such a table."""
    price = make_pricer(ACME, config(transcription="scribe-1"))
    assert price("transcription", used(seconds=90)) == pytest.approx(0.009)
    assert price("transcription", used(input_audio_tokens=100)) is None


def test_each_model_has_its_own_table() -> None:
    """Replies are priced by the session's model, transcriptions by the transcription model, speech by the declared speech model."""
    price = make_pricer(ACME, config("text-1", "scribe-1", speech_model="talk-1"))
    usage = used(output_text_tokens=1_000_000)
    assert (price("reply", usage), price("transcription", usage), price("speech", usage)) == (8.0, None, 16.0)
    assert make_pricer(ACME, config())("speech", usage) is None


def test_a_dated_model_has_the_price_of_its_base_name() -> None:
    """A model name with a date suffix has the price of the base name unless it has its own; other suffixes have no price."""
    usage = used(input_text_tokens=1_000_000)
    assert make_pricer(ACME, config("talk-1-2026-05-01"))("reply", usage) == 4.0
    own = {("acme", "talk-1-2026-05-01"): {"input_text": 3.0}}
    assert make_pricer(ACME, config("talk-1-2026-05-01"), own)("reply", usage) == 3.0
    assert make_pricer(ACME, config("talk-1-mini"))("reply", usage) is None


def test_used_tokens_without_a_price_make_the_cost_unknown() -> None:
    """The cost is unknown if a used kind has no price; unused kinds need no price."""
    price = make_pricer(ACME, config("text-1"))
    assert price("reply", used(input_text_tokens=10, output_audio_tokens=0)) is not None
    assert price("reply", used(input_text_tokens=10, output_audio_tokens=1)) is None
    assert price("reply", Usage()) is None
    assert make_pricer(ACME, config("unheard-of"))("reply", used(input_text_tokens=10)) is None
    assert make_pricer(ACME, config("text-1"))("reply", used(seconds=3)) is None


@given(usage=usages, told=st.floats(0, 100))
def test_a_cost_reported_by_the_provider_is_used(usage: Usage, told: float) -> None:
    """The reported cost is used for every model and kind, with or without a price."""
    usage = usage.model_copy(update={"cost": told})
    for model in ("talk-1", "text-1", "unheard-of"):
        for kind in ("reply", "transcription", "speech"):
            assert make_pricer(ACME, config(model))(kind, usage) == told  # type: ignore[arg-type]


@given(usage=usages, table=tables)
def test_a_cost_is_between_all_cached_and_none_cached(usage: Usage, table: ModelPrices) -> None:
    """The cost lies between the cost of all input as cached and the cost of all input as not cached."""
    cost = compute_cost(usage, table)
    assert cost is not None
    bare = dataclasses.replace(table, cached=None)
    none_cached = compute_cost(usage, bare)
    assert none_cached is not None
    if table.cached is None or not usage.cached_tokens:
        assert cost == pytest.approx(none_cached)
        return
    size = sum(count or 0 for name, count in usage if name.startswith("input_"))
    all_cached = compute_cost(usage.model_copy(update={"cached_tokens": size}), table)
    assert all_cached is not None
    slack = 1e-9 * (1 + none_cached + all_cached)
    assert min(none_cached, all_cached) - slack <= cost <= max(none_cached, all_cached) + slack


@given(usage=usages, table=tables, times=st.integers(1, 50))
def test_the_cost_is_proportional_to_the_usage(usage: Usage, table: ModelPrices, times: int) -> None:
    """The cost of n times the tokens is n times the cost."""
    counts = {name: count * times for name, count in usage.model_dump(exclude_none=True).items()}
    once, more = compute_cost(usage, table), compute_cost(Usage(**counts), table)
    assert once is not None
    assert more == pytest.approx(once * times)
    assert more >= once >= 0


@given(
    usage=usages, table=tables, missing=st.sampled_from(["input_text", "input_audio", "output_text", "output_audio"])
)
def test_a_missing_price_makes_the_cost_unknown_only_if_used(usage: Usage, table: ModelPrices, missing: str) -> None:
    """The cost is unknown exactly if there are tokens of the kind without a price."""
    holed = dataclasses.replace(table, cached=None, **{missing: None})
    assert (compute_cost(usage, holed) is None) == bool(getattr(usage, f"{missing}_tokens"))


@given(
    written=st.dictionaries(
        st.tuples(
            st.sampled_from(["acme", "openai"]),
            st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
        ),
        st.dictionaries(st.sampled_from(["input_text", "cached", "minute"]), prices),
    )
)
def test_a_price_file_is_read_completely(
    tmp_path_factory: pytest.TempPathFactory, written: dict[tuple[str, str], dict[str, float]]
) -> None:
    """Every table of a price file becomes an override for its provider and model."""
    path = tmp_path_factory.getbasetemp() / "prices.toml"
    path.write_text(
        "\n".join(
            f"[{provider}.{json.dumps(model)}]\n" + "".join(f"{name} = {value!r}\n" for name, value in values.items())
            for (provider, model), values in written.items()
        )
    )
    assert load_prices(path) == written


def test_a_price_file_overrides_published_prices(tmp_path: Path) -> None:
    """A table overrides the prices that it names and may add a model; other prices and providers are unchanged."""
    path = tmp_path / "prices.toml"
    path.write_text('[acme."talk-1"]\noutput_text = 1\n[acme."new/model"]\ninput_text = 5.5\n')
    overrides = load_prices(path)
    usage = used(input_text_tokens=1_000_000, output_text_tokens=1_000_000)
    assert make_pricer(ACME, config(), overrides)("reply", usage) == pytest.approx(5.0)
    assert make_pricer(ACME, config("new/model"), overrides)("reply", used(input_text_tokens=1_000_000)) == 5.5
    other = dataclasses.replace(ACME, name="other")
    assert make_pricer(other, config(), overrides)("reply", usage) == pytest.approx(20.0)
    assert load_prices(None) == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[acme\n", "Expected ']' at the end of a table declaration (at line 1, column 6)"),
        ("a = 1\nb = \n", "Invalid value (at line 2, column 5)"),
        ("acme = 3\n", "'acme' is no table of a provider"),
        ("[acme]\ntalk = 3\n", "[acme] talk is no table of a model"),
        (
            '[acme."talk-1"]\ninput_txt = 3\n',
            (
                "[acme.\"talk-1\"] has 'input_txt'. Did you mean 'input_text'? "
                "There are input_text, input_audio, input_image, input_video, cached, output_text, output_audio, thinking, minute"
            ),
        ),
        ('[acme."talk-1"]\ncached = "free"\n', "[acme.\"talk-1\"] cached is 'free', not a number from 0"),
        ('[acme."talk-1"]\ncached = -0.1\n', '[acme."talk-1"] cached is -0.1, not a number from 0'),
        ('[acme."talk-1"]\ncached = true\n', '[acme."talk-1"] cached is True, not a number from 0'),
        ('[acme."talk-1"]\ncached = nan\n', '[acme."talk-1"] cached is nan, not a number from 0'),
        ('[acme."talk-1"]\ncached = inf\n', '[acme."talk-1"] cached is inf, not a number from 0'),
    ],
)
def test_an_invalid_price_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """The error names the line or table and shows a valid table."""
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        load_prices(path)
    assert refused.value.code == "bad_prices"
    assert str(refused.value) == (
        f"The prices in {path} cannot be used: {why}.\n"
        '  hint: write a table such as [openai."gpt-realtime-2"] with input_text = 4.0 (US dollars for a million tokens)'
    )


def test_an_unreadable_price_file_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder and a file that is not UTF-8 are refused with the reason."""
    (tmp_path / "prices.toml").write_bytes(b"\xff\xfe")
    for path, why in (
        (tmp_path / "no.toml", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "prices.toml", "no UTF-8"),
    ):
        with pytest.raises(InvalidInput, match=why):
            load_prices(path)
