"""The page of the matrix, `docs/matrix.md`: what the plugins that we ship declare, written by ``python -m agentfield.plugins.document``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from agentfield.plugins.install import FIRST_PARTY
from agentfield.plugins.matrix import cell, table_of
from agentfield.plugins.registry import PluginRecord, Registry
from agentfield.plugins.spec import Names, Prices, ProviderInfo

__all__ = ["REGENERATE", "WORDS", "main", "matrix_document"]

REGENERATE = "python -m agentfield.plugins.document docs/matrix.md"
"""What writes the page anew, in the root of a checkout."""

WORDS = (
    (
        "media",
        "`direct`: between caller and provider; `bridged`: through the control plane; `turns`: recording by recording",
    ),
    ("say", "`exact`: the words as given; `best_effort`: the model is told to say them, and what it said is compared"),
    ("floors", "who may answer a turn: the handler of the session, or the model by itself"),
    ("turn_detection", "how the end of the caller's turn is found; `manual`: the caller says so (push to talk)"),
    ("modalities", "what the agent may answer with"),
    ("tools", "`async`: the call goes on while tools run; `sync`: the turn waits for them"),
    ("caller_transcript", "the caller's words: when the turn is over (`final`), or while they are spoken (`partial`)"),
    ("agent_transcript", "the agent's words: when it has spoken (`final`), or while it speaks (`streaming`)"),
    ("default_transcription", "the model that transcribes the caller where a session names none"),
    ("interruption", "who stops the agent's voice when the caller speaks: the provider (`server`) or we (`client`)"),
    (
        "truncation",
        "how the model learns what was heard of an interrupted reply: from the provider itself, from us to the millisecond, or by an estimate",
    ),
    ("text_input", "whether the caller may type"),
    (
        "resumption",
        "after the line or we were lost: the same call goes on (`attach`), a new one is told what was said (`replay`), or there is nothing to lose (`stateless`)",
    ),
    ("usage", "what is known of the use: counts (`tokens`), or what it costs, from the provider itself (`cost`)"),
    ("max_duration", "seconds after which the provider ends its session"),
    (
        "client_leg",
        "what the caller's own line to the provider can change of the session: nothing (`filtered`, or there is none), or anything, which we see and undo (`watched`) or do not see (`open`)",
    ),
    ("routing", "`pinned`: the provider's own upstream is fixed, and what it says it used is checked"),
    ("limits", "the limits of a session that can be enforced"),
    (
        "formats",
        "audio that the provider takes and gives without conversion; on `direct` media both ends agree by themselves",
    ),
    ("dtmf", "whether keys of a telephone reach the handler"),
)
"""Each line of the table with its meaning."""


def matrix_document(registry: Registry) -> str:
    """Return the page: the pairs of our own plugins with what each can do, notes, providers and prices.

    Args:
        registry: The plugins; those of others are left out.
    """
    return "\n".join(_lines(registry)) + "\n"


def _lines(registry: Registry) -> Iterator[str]:
    pairs = [row for row in registry.pairs() if row[1].distribution in FIRST_PARTY]
    yield from (
        "# The matrix",
        "",
        "Every pair of provider and transport that we ship, and what each can do. A session that asks a pair for something",
        "it cannot do is refused when it starts, with the reason; nothing is switched silently. A dash means: cannot.",
        "",
        f"This page is written from what the plugins declare: `{REGENERATE}`.",
        "`af adapters --markdown` prints the table for your own installation, plugins of others included.",
        "",
        table_of(pairs),
        "## What the words mean",
        "",
        "| capability | meaning |",
        "|---|---|",
        *(f"| {name} | {meaning} |" for name, meaning in WORDS),
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
        "Prices are those that the providers published when this was written, US dollars for a million tokens; a file named by",
        "`AGENTFIELD_PRICES` goes over them, with a table for each model:",
        "",
        "```toml",
        '[openai."gpt-realtime-2"]',
        "output_audio = 64.0",
        "```",
    )


def _brings(record: PluginRecord) -> tuple[ProviderInfo, ...]:
    return record.manifest.providers if record.state == "ok" and record.manifest else ()


def _provider(provider: ProviderInfo) -> Iterator[str]:
    yield from (f"### {provider.name}: {provider.title}", "")
    if provider.key_setting:
        needed = "" if provider.key_required else "; it is needed only where the server asks for one"
        yield f"- key: `{provider.key_setting}`, several are separated by commas{needed}"
    if provider.url_setting:
        default = f"; without it `{provider.default_url}`" if provider.default_url else ""
        yield f"- address: `{provider.url_setting}`{default}"
    yield f"- models: {_names(provider.models)}"
    yield f"- voices: {_names(provider.voices)}"
    limit = "as many as it likes" if provider.concurrency is None else str(provider.concurrency)
    yield f"- sessions at once with one key: {limit}, unless `AGENTFIELD_PROVIDER_CONCURRENCY={provider.name}=N` says otherwise"
    yield ""
    if provider.prices:
        names = [field.name for field in fields(Prices)]
        yield f"| {' | '.join(names)} |"
        yield "|---" * len(names) + "|"
        for price in provider.prices:
            yield f"| {' | '.join(cell(getattr(price, name)) for name in names)} |"
        yield ""


def _names(names: Names) -> str:
    known = ", ".join(f"{name} (default)" if name == names.default else name for name in names.known) or "-"
    return known if names.closed else f"{known}; others are passed on, the provider judges"


def main(arguments: list[str]) -> None:
    """Write the page into the file that is named, else to standard output."""
    page = matrix_document(Registry.discover())
    match arguments:
        case [path]:
            Path(path).write_text(page, encoding="utf-8")
        case _:
            sys.stdout.write(page)


if __name__ == "__main__":
    main(sys.argv[1:])
