"""What lives as long as the process: left out of the garbage collector's rounds, which would be heard in a call."""

from __future__ import annotations

import gc

__all__ = ["keep_for_good"]


def keep_for_good() -> None:
    """Leave everything that there is now out of later collections.

    A full collection looks through all that was ever imported and holds up the event loop for some 50 ms: a gap in the
    audio of every call. For a program that owns its process, once it is up; never for a library.
    """
    gc.collect()
    gc.freeze()
    # The next full round waits for a quarter of what the last one found, which is next to nothing from here on: what calls
    # leave behind goes soon, and each round is short.
    gc.collect()
