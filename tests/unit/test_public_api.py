"""The public API changes only with its committed snapshot, `tests/public_api.txt`."""

from __future__ import annotations

import difflib

from support.public_api import COMMAND, SNAPSHOT, public_api


def test_the_public_api_is_that_of_the_snapshot() -> None:
    """A changed name, signature or field fails with the difference and with what belongs into the same commit."""
    recorded, current = SNAPSHOT.read_text(encoding="utf-8"), public_api()
    difference = "\n".join(
        difflib.unified_diff(
            recorded.splitlines(), current.splitlines(), "tests/public_api.txt", "code", lineterm="", n=2
        )
    )
    assert recorded == current, (
        f"The public API has changed:\n\n{difference}\n\n"
        f"If the change is intended, run `{COMMAND}` and commit the new snapshot together with a changelog fragment"
        " (changelog/README.md). A change that breaks plugins also raises agentfield.plugins.PLUGIN_API."
    )


def test_the_snapshot_has_signatures_fields_and_inherited_members() -> None:
    """The text shows functions with their parameters, fields with types and defaults, and members of base classes."""
    text = public_api()
    assert "def hook" not in text
    assert "    method: Literal['GET', 'POST']" in text
    assert "def check_base_url(url: str, setting: str | None, *, example: str | None=None) -> str" in text
    adapter_suite = text.partition("class AdapterSuite(")[2].partition("\nclass ")[0]
    assert "async def test_a_say_is_spoken(self, " in adapter_suite
