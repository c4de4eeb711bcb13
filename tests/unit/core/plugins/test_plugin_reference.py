"""`docs/plugin-reference.md` is generated from the source, and complete."""

from __future__ import annotations

import dataclasses
import re
from typing import get_args

from agentfield.plugins import Capabilities, Manifest
from agentfield.plugins.hooks.hookspecs import PluginHooks
from agentfield.realtime.commands import Command
from agentfield.realtime.events import Event
from support.plugin_reference import COMMAND, PAGE, RECORDED, plugin_reference, recorded_types


def test_the_page_is_up_to_date() -> None:
    """The failure has the command that writes the page."""
    assert PAGE.read_text(encoding="utf-8") == plugin_reference(), (
        f"{PAGE.name} is out of date; write it with: {COMMAND}"
    )


def test_each_recorded_event_has_a_meaning() -> None:
    """A type that the code records is in the table, and no other."""
    assert recorded_types() == set(RECORDED)


def test_each_row_has_a_meaning() -> None:
    """Each field, value and type of the page is explained: write the docstring of the field, or the page has an empty cell."""
    heading, empty = "", []
    for line in plugin_reference().splitlines():
        heading = line.removeprefix("### ") if line.startswith("#") else heading
        if line.startswith("| `") and not line.rstrip("|").rpartition("|")[2].strip():
            empty.append(f"{heading}.{line.split('`')[1]}")
    assert not empty, f"without a docstring: {', '.join(empty)}"


def test_the_page_has_everything() -> None:
    """Every event, command, hook, manifest field and capability value is on the page, and every link leads to a heading."""
    page = plugin_reference()
    for union in (Event, Command):
        for each in get_args(get_args(union)[0]) or get_args(union):
            assert f"\n### {each.__name__}\n" in page
            assert f"| `{each.model_fields['type'].default}` | [`{each.__name__}`](#{each.__name__.lower()}) |" in page
    for field in (*dataclasses.fields(Capabilities), *dataclasses.fields(Manifest)):
        assert f"\n| `{field.name}` | " in page
    for value in ("best_effort", "semantic_vad", "client_ms", "stateless", "watched", "pinned", "tool_calls"):
        assert f"`{value}`" in page
    for name in vars(PluginHooks):
        assert not name.startswith("agentfield_") or f"`{name}(" in page or f"`async {name}(" in page
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in page.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= headings
