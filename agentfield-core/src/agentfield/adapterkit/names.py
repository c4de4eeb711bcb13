"""Names of tools as providers allow them, and back: `voice-support.resolve_turn` becomes `voice-support__resolve_turn`."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

__all__ = ["ToolNames"]

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST = 64


class ToolNames:
    """A mapping both ways between targets and names of at most 64 letters, digits, `_` and `-`.

    A dot becomes two underscores. Where that is ambiguous, too long, or other characters are replaced, a digest of the
    target is appended, so that the name of a target depends on no order.

    Args:
        targets: The targets, `node_id.name` each; duplicates count once.
    """

    def __init__(self, targets: Iterable[str]) -> None:
        unique = tuple(dict.fromkeys(targets))
        plain = {target: target.replace(".", "__") for target in unique}
        count = Counter(plain.values())
        self._safe: dict[str, str] = {}
        for target, name in plain.items():
            fits = count[name] == 1 and 0 < len(name) <= _LONGEST and _FORBIDDEN.search(name) is None
            self._safe[target] = name if fits else _marked(name, target)
        self._target = {name: target for target, name in self._safe.items()}

    def safe(self, target: str) -> str:
        """Return the provider's name of a target.

        Raises:
            KeyError: The target is none of the names this was made from.
        """
        return self._safe[target]

    def target(self, safe: str) -> str:
        """Return the target behind a provider's name; a name that is nobody's is returned as it is."""
        return self._target.get(safe, safe)

    def __contains__(self, target: object) -> bool:
        return target in self._safe


def _marked(name: str, target: str) -> str:
    mark = hashlib.sha256(target.encode()).hexdigest()[:16]
    return f"{_FORBIDDEN.sub('_', name)[: _LONGEST - 17]}_{mark}"
