"""The wheels, built once for all packaging tests."""

from __future__ import annotations

from support.packaging.environments import wheels

__all__ = ["wheels"]
