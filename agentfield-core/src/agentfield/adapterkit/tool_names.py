"""Names of tools that providers accept, and back: `voice-support.resolve_turn` becomes `voice-support__resolve_turn`."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

__all__ = ["ToolNames"]

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")
_MAX_LENGTH = 64


class ToolNames:
    """A two-way mapping between targets and names of at most 64 letters, digits, `_` and `-`.

    A dot becomes two underscores. If the result is ambiguous, too long, or has other characters, they are replaced and a
    digest of the target is appended, so that a name does not depend on the order of the targets.

    Args:
        targets: The targets, each ``node_id.name``; duplicates are ignored.
    """

    def __init__(self, targets: Iterable[str]) -> None:
        unique = tuple(dict.fromkeys(targets))
        plain = {target: target.replace(".", "__") for target in unique}
        count = Counter(plain.values())
        self._names: dict[str, str] = {}
        for target, name in plain.items():
            fits = count[name] == 1 and 0 < len(name) <= _MAX_LENGTH and _FORBIDDEN.search(name) is None
            self._names[target] = name if fits else _with_digest(name, target)
        self._targets = {name: target for target, name in self._names.items()}

    def safe(self, target: str) -> str:
        """Return the name of a target for the provider.

        Raises:
            KeyError: The target is unknown.
        """
        return self._names[target]

    def target(self, safe: str) -> str:
        """Return the target of a provider's name; an unknown name is returned unchanged."""
        return self._targets.get(safe, safe)

    def __contains__(self, target: object) -> bool:
        return target in self._names


def _with_digest(name: str, target: str) -> str:
    digest = hashlib.sha256(target.encode()).hexdigest()[:16]
    return f"{_FORBIDDEN.sub('_', name)[: _MAX_LENGTH - 17]}_{digest}"
