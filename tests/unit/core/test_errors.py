"""The error hierarchy and its problem documents."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield import errors
from agentfield.errors import AgentFieldError, error_from_problem
from agentfield.lossy import http_status

CLASSES = [getattr(errors, name) for name in errors.__all__ if name != "error_from_problem"]


def test_codes_are_unique() -> None:
    """No two classes share a code."""
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_problem_document_comes_back_as_the_same_error(cls: type[AgentFieldError]) -> None:
    """Class, code, status, message, hint and data of an error survive the conversion to a problem document and back."""
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


def test_an_unknown_code_becomes_the_class_of_its_status() -> None:
    """An error with an unknown code has the class of its status, so that `except NotFound` catches it."""
    error = error_from_problem({"code": "unknown_target", "status": 404, "detail": "No such target."})
    assert isinstance(error, errors.NotFound)
    assert error.code == "unknown_target"
    other = error_from_problem({"code": "never_seen", "status": 418, "detail": "?"})
    assert type(other) is AgentFieldError
    assert other.status == 418


def test_a_problem_document_has_the_standard_members() -> None:
    """A problem document has the members of RFC 9457, and `code`, `hint` and the data of the error."""
    assert errors.NotFound("Gone.", code="unknown_session", hint="af session list").to_problem() == {
        "type": "urn:agentfield:problem:unknown_session",
        "title": "unknown session",
        "status": 404,
        "code": "unknown_session",
        "detail": "Gone.",
        "hint": "af session list",
    }


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-1, 700) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(status=ANY_JSON, code=st.sampled_from(["unauthorized", "not_found", "never_seen"]))
def test_any_status_of_a_problem_is_an_error_status(status: Any, code: str) -> None:
    """An integer from 400 to 599 is kept, anything else becomes 502; 401 stays only where it is about the caller's key."""
    fits = type(status) is int and 400 <= status <= 599
    assert http_status(status) == (status if fits and status != 401 else 502)
    error = error_from_problem({"code": code, "status": status, "detail": "?"})
    kept = fits and (status != 401 or isinstance(error, errors.Unauthorized))
    assert error.status == error.to_problem()["status"] == (status if kept else 502)
    own = AgentFieldError("?", code=code)
    own.status = status
    assert own.to_problem()["status"] == http_status(status)


def test_a_status_may_be_an_enumeration() -> None:
    """An `HTTPStatus` is an integer."""
    error = AgentFieldError("?")
    error.status = HTTPStatus.CONFLICT
    assert error.to_problem()["status"] == 409
