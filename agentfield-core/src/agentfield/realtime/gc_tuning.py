"""Garbage collector tuning: excludes long-lived objects, because full collections cause gaps in the audio of calls."""

from __future__ import annotations

import gc

__all__ = ["freeze_long_lived_objects"]


def freeze_long_lived_objects() -> None:
    """Exclude all current objects from later collections.

    A full collection traverses everything that was imported and blocks the event loop for some 50 ms: a gap in the audio of
    every call. For a program that owns its process, once it has started; never for a library.
    """
    gc.collect()
    gc.freeze()
    # CPython delays a full collection until the new objects exceed a quarter of those that survived the last one. After this
    # second collection that number is close to zero, so later ones come early and each is short.
    gc.collect()
