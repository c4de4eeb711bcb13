"""The tree of errors."""

from __future__ import annotations

import pytest

from agentfield import errors
from agentfield.errors import AgentFieldError, error_from_problem

CLASSES = [getattr(errors, name) for name in errors.__all__ if name != "error_from_problem"]


def test_codes_are_unique() -> None:
    """No two classes share a code."""
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_problem_document_comes_back_as_the_same_error(cls: type[AgentFieldError]) -> None:
    """An error survives the way over HTTP: class, code, status, message, hint and data."""
    error = cls("What was asked. Why not.", hint="do this", field="text")
    again = error_from_problem(error.to_problem())
    assert type(again) is cls
    assert (again.code, again.status, again.message, again.hint, again.data) == (
        error.code,
        error.status,
        error.message,
        "do this",
        {"field": "text"},
    )
    assert str(again) == "What was asked. Why not.\n  hint: do this"


def test_a_code_of_no_class_keeps_its_code_and_finds_its_family() -> None:
    """A special code of a status is an error of that family, so that `except NotFound` catches it."""
    error = error_from_problem({"code": "unknown_target", "status": 404, "detail": "No such target."})
    assert isinstance(error, errors.NotFound)
    assert error.code == "unknown_target"
    other = error_from_problem({"code": "never_seen", "status": 418, "detail": "?"})
    assert type(other) is AgentFieldError
    assert other.status == 418


def test_a_problem_document_names_its_parts() -> None:
    """The document has the members of RFC 9457 and ours."""
    assert errors.NotFound("Gone.", code="unknown_session", hint="af session list").to_problem() == {
        "type": "urn:agentfield:problem:unknown_session",
        "title": "unknown session",
        "status": 404,
        "code": "unknown_session",
        "detail": "Gone.",
        "hint": "af session list",
    }
