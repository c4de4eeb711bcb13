"""The wheels are built once for all packaging tests."""

from __future__ import annotations

from packaging_kit import wheels

__all__ = ["wheels"]
