"""The page `docs/matrix.md`: the pairs of the first-party plugins, generated from their manifests.

Run ``python -m agentfield.plugins.registry.matrix_document docs/matrix.md`` in the root of a checkout to regenerate it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from agentfield.plugins.install import FIRST_PARTY
from agentfield.plugins.manifest.spec import Catalog, ModelPrices, ProviderSpec
from agentfield.plugins.registry.matrix import format_value, matrix_table
from agentfield.plugins.registry.records import PluginRecord
from agentfield.plugins.registry.registry import Registry

__all__ = ["MEANINGS", "REGENERATE", "main", "matrix_document"]

REGENERATE = "python -m agentfield.plugins.registry.matrix_document docs/matrix.md"
"""Command that regenerates the page, in the root of a checkout."""

MEANINGS = (
    (
        "media",
        "`direct`: between caller and provider; `bridged`: through the control plane; `turns`: one recording per turn",
    ),
    ("say", "`exact`: the words as given; `best_effort`: the model is asked to say them, and what it said is compared"),
    (
        "uninterruptible",
        "whether a text can be spoken to its end while the caller speaks; the caller's turns then wait",
    ),
    ("floors", "who may answer a turn: the session's handler, or the model"),
    (
        "turn_detection",
        "how the end of the caller's turn is detected; `manual`: the caller commits the turn (push to talk)",
    ),
    ("modalities", "the forms of the agent's answers"),
    ("tools", "`async`: the conversation continues while tools run; `sync`: the turn waits for them"),
    ("caller_transcript", "the caller's transcript: after the turn (`final`), or while the caller speaks (`partial`)"),
    ("agent_transcript", "the agent's transcript: after the speech (`final`), or while the agent speaks (`streaming`)"),
    (
        "transcription",
        "who transcribes the caller: a model that the session can name (`model`), or the provider itself (`own`)",
    ),
    ("default_transcription", "the model that transcribes the caller if the session names none"),
    (
        "interruption",
        "what stops the agent's speech when the caller speaks: the provider (`server`) or the control plane (`client`)",
    ),
    (
        "delays_interruption",
        "whether a provider that stops its speech by itself waits for `interrupt_after_ms` of the session",
    ),
    (
        "truncation",
        "how the model learns how much of an interrupted reply was heard: from the provider itself (`server`), from the control plane to the millisecond (`client_ms`), or by an estimate (`estimate`)",
    ),
    (
        "answers_after",
        "after what the model answers by itself on its floor: a turn whose end the provider detected (`turn`), the caller's commit (`commit`), the results of its tools (`tool_result`); otherwise the control plane asks it",
    ),
    ("begins_turns", "whether the provider is told when the caller begins a turn of push to talk"),
    ("text_input", "whether the caller can send text"),
    (
        "resumption",
        "after a lost connection or a restart of the control plane: the same call continues (`attach`), a new session receives the conversation so far (`replay`), a session is resumed by a handle of the provider (`handle`), or the provider keeps no session and is told the conversation with each request (`stateless`)",
    ),
    ("usage", "what the provider reports: token counts (`tokens`), or the cost (`cost`)"),
    ("max_duration", "seconds after which the provider ends its session"),
    (
        "client_leg",
        "what the caller's own connection to the provider can change in the session: nothing (`filtered`, or there is no connection), anything, which the control plane sees and undoes (`watched`), or anything, unseen (`open`)",
    ),
    ("routing", "`pinned`: the provider's own upstream is fixed, and the upstream that it reports is checked"),
    ("limits", "limits of a session that can be enforced"),
    (
        "formats",
        "audio that the provider takes and gives without conversion; on `direct` media the two ends negotiate it",
    ),
    (
        "output_formats",
        "formats of the replies where they differ from `formats`, which are then those of the caller's audio",
    ),
    ("echoes", "what the provider repeats when the session is ready, so that it is compared with what was asked for"),
    ("dtmf", "whether telephone keys reach the handler"),
)
"""Meaning of each row of the table."""


def matrix_document(registry: Registry) -> str:
    """Return the page: the first-party pairs with capabilities, notes, providers and prices.

    Args:
        registry: The plugins; third-party plugins are left out.
    """
    return "\n".join(_lines(registry)) + "\n"


def _lines(registry: Registry) -> Iterator[str]:
    pairs = [row for row in registry.pairs() if row[1].distribution in FIRST_PARTY]
    yield from (
        "# The matrix",
        "",
        "The pairs of provider and transport of the first-party plugins, with their capabilities. A session that needs a",
        "capability that its pair lacks is refused when it starts, with the reason; nothing is switched silently. A dash means:",
        "not supported.",
        "",
        f"This page is generated from the plugins' manifests: `{REGENERATE}`.",
        "`af adapters --markdown` prints the table of your own installation, third-party plugins included.",
        "",
        matrix_table(pairs),
        "## Meaning of the rows",
        "",
        "| capability | meaning |",
        "|---|---|",
        *(f"| {name} | {meaning} |" for name, meaning in MEANINGS),
        "",
        "## Notes",
        "",
        *(f"- **{spec.name}** {spec.notes}" for spec, _ in pairs if spec.notes),
        "",
        "## Providers",
        "",
    )
    ours = {info for record in registry.plugins if record.distribution in FIRST_PARTY for info in _brings(record)}
    for provider in registry.providers():
        if provider in ours:
            yield from _provider(provider)
    yield from (
        "Prices are the published ones at the time of writing, in US dollars for a million tokens; a file named by",
        "`AGENTFIELD_PRICES` overrides them, with a table for each model:",
        "",
        "```toml",
        '[openai."gpt-realtime-2"]',
        "output_audio = 64.0",
        "```",
    )


def _brings(record: PluginRecord) -> tuple[ProviderSpec, ...]:
    return record.manifest.providers if record.state == "ok" and record.manifest else ()


def _provider(provider: ProviderSpec) -> Iterator[str]:
    yield from (f"### {provider.name}: {provider.title}", "")
    if provider.key_setting:
        needed = "" if provider.key_required else "; needed only if the server requires one"
        yield f"- key: `{provider.key_setting}`, several keys separated by commas{needed}"
    if provider.url_setting:
        default = f"; default `{provider.default_url}`" if provider.default_url else ""
        yield f"- address: `{provider.url_setting}`{default}"
    yield f"- models: {_names(provider.models)}"
    yield f"- voices: {_names(provider.voices)}"
    limit = "unlimited" if provider.concurrency is None else str(provider.concurrency)
    yield f"- concurrent sessions per key: {limit}; `AGENTFIELD_PROVIDER_CONCURRENCY={provider.name}=N` sets another limit"
    yield ""
    if provider.prices:
        names = [field.name for field in fields(ModelPrices)]
        yield f"| {' | '.join(names)} |"
        yield "|---" * len(names) + "|"
        for price in provider.prices:
            yield f"| {' | '.join(format_value(getattr(price, name)) for name in names)} |"
        yield ""


def _names(catalog: Catalog) -> str:
    known = ", ".join(f"{name} (default)" if name == catalog.default else name for name in catalog.known) or "-"
    return known if catalog.closed else f"{known}; other names are passed to the provider"


def main(arguments: list[str]) -> None:
    """Write the page to the named file, else to standard output."""
    page = matrix_document(Registry.discover())
    match arguments:
        case [path]:
            Path(path).write_text(page, encoding="utf-8")
        case _:
            sys.stdout.write(page)


if __name__ == "__main__":
    main(sys.argv[1:])
