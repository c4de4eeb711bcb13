"""Base of all suites: the pair under test, standard tests that cannot be overridden, and known bugs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

from agentfield.testing.conformance import ADAPTER_OPTION

__all__ = ["ConformanceSuite", "standard_tests"]

_KIT = "agentfield.testing.conformance."


class ConformanceSuite:
    """A suite of standard tests; a plugin author may set the pair and known bugs, and override fixtures."""

    pair: ClassVar[str] = ""
    """``provider/transport``; by default the value of `--adapter`."""
    xfails: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Known bugs: names of standard tests that fail, each with the reason. One that passes is reported as a failure."""
    pytestmark = pytest.mark.asyncio(loop_scope="function")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Reject overridden standard tests, and mark known bugs.

        Raises:
            TypeError: The class overrides a standard test, or lists a known bug without a reason or an unknown test.
        """
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(_KIT):
            return
        standard = standard_tests(cls)
        for name, test in standard.items():
            if getattr(cls, name, None) is not test:
                raise TypeError(
                    f"{cls.__name__} overrides the standard test {name}. Standard tests cannot be changed; add tests under "
                    f'other names, and declare a known bug with its reason: xfails = {{"{name}": "why"}}'
                )
        for name, reason in cls.xfails.items():
            if name not in standard:
                raise TypeError(f"{cls.__name__}.xfails names {name}, which is none of the standard tests.")
            if not reason.strip():
                raise TypeError(f"{cls.__name__}.xfails gives no reason for {name}.")
            setattr(cls, name, _expected_to_fail(standard[name], reason))

    @pytest.fixture
    def pair_name(self, request: pytest.FixtureRequest) -> str:
        """Return the pair under test."""
        name = self.pair or request.config.getoption(ADAPTER_OPTION)
        if not name:
            pytest.fail(f"{type(self).__name__} names no pair: write pair = 'acme/websocket'", pytrace=False)
        return str(name)


def standard_tests(cls: type) -> dict[str, Callable[..., Any]]:
    """Return the standard tests of a suite by name, in execution order."""
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith(_KIT):
            found.update({name: value for name, value in vars(base).items() if name.startswith("test_")})
    return found


def _expected_to_fail(test: Callable[..., Any], reason: str) -> Callable[..., Any]:
    @functools.wraps(test)
    async def known_bug(*args: Any, **kwargs: Any) -> None:
        await test(*args, **kwargs)

    marked: Callable[..., Any] = pytest.mark.xfail(strict=True, reason=reason)(known_bug)
    return marked
