"""References of a manifest: ``"module:attribute"`` strings, which keep a manifest light."""

from __future__ import annotations

import importlib
from typing import Any

from agentfield.errors import PluginBroken

__all__ = ["load_attribute"]


def load_attribute(reference: str) -> Any:
    """Import the attribute that ``"module:attribute"`` names.

    Args:
        reference: The factory or options model as the manifest names it.

    Raises:
        PluginBroken: The module does not import or has no such attribute.
    """
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise PluginBroken(
            f"{reference} could not be imported: {type(error).__name__}: {error}", reference=reference
        ) from error
