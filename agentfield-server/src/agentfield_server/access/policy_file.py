"""Policies as TOML: rules about edges from callers to targets, and tests of them. Strict: what is unknown is refused."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentfield.errors import InvalidInput
from agentfield.schema import validation_message

__all__ = ["Constraint", "PolicyDocument", "PolicyTest", "Rule", "parse_policies"]

MAX_DOCUMENT = 1024 * 1024
"""Characters of a policy document."""

_EXAMPLE = '[[rule]] with from = ["tag:staff"], to = ["tag:support:voice"], effect = "allow"'

Selector = Annotated[
    str,
    Field(
        pattern=r"^(\*|tag:\S(.*\S)?|local|(key|node|transport):[A-Za-z0-9._-]+|[^:.\s*][^:.\s]*\.(\*|[^:\s*]+))$",
        max_length=200,
    ),
]
"""Whom a rule is about: ``tag:TAG``, a target ``node.name``, all of a node ``node.*``, a principal (``local``, ``key:ID``,
``node:ID``, ``transport:NAME``), or ``*``."""

Scalar = str | int | float | bool


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=True)


class Constraint(_Model):
    """A condition on one parameter of the called target; all that are given must hold."""

    equals: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = Field(default=None, min_length=1, max_length=1000)
    at_least: int | float | None = None
    at_most: int | float | None = None

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("one_of"), list):
            return {**value, "one_of": tuple(value["one_of"])}
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Constraint:
        if not self.model_fields_set:
            raise ValueError("must have equals, one_of, at_least or at_most")
        return self

    def holds(self, value: object) -> bool | None:
        """Return whether a value meets the condition, None where it cannot be compared with it."""
        if not isinstance(value, str | int | float | bool):
            return None
        if self.equals is not None and not _same(value, self.equals):
            return False
        if self.one_of is not None and not any(_same(value, each) for each in self.one_of):
            return False
        if self.at_least is None and self.at_most is None:
            return True
        if isinstance(value, str | bool) or value != value:
            return None
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


class Rule(_Model):
    """A rule about the edges from some callers to some targets."""

    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:-]*$", max_length=100)
    """Its name in decisions; ``rule N`` by default, counted from 1."""
    callers: tuple[Selector, ...] = Field(alias="from", min_length=1, max_length=1000)
    targets: tuple[Selector, ...] = Field(alias="to", min_length=1, max_length=1000)
    effect: Literal["allow", "deny"]
    when: dict[str, Constraint] = Field(default_factory=dict)
    """Conditions on the parameters of the target; the rule applies where all hold. A parameter that is missing, or that
    cannot be compared, is never allowed by the rule, and always denied by it."""

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: tuple(each) if isinstance(each, list) else each for key, each in value.items()}
        return value


class PolicyTest(_Model):
    """A test of the rules of the same document, for ``af access test``."""

    caller: str = Field(min_length=1, max_length=200)
    through: tuple[str, ...] = Field(default=(), max_length=20)
    """Targets between the caller and the target, in order."""
    target: str = Field(min_length=1, max_length=200)
    tags: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Tags of the names above."""
    input: dict[str, Any] = Field(default_factory=dict)
    expect: Literal["allow", "deny"]

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        made = {**value}
        if isinstance(made.get("through"), list):
            made["through"] = tuple(made["through"])
        if isinstance(made.get("tags"), Mapping):
            made["tags"] = {
                name: tuple(tags) if isinstance(tags, list) else tags for name, tags in made["tags"].items()
            }
        return made


class PolicyDocument(_Model):
    """A document of rules and of tests of them."""

    rule: tuple[Rule, ...] = Field(default=(), max_length=100_000)
    test: tuple[PolicyTest, ...] = Field(default=(), max_length=100_000)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: tuple(each) if isinstance(each, list) else each for key, each in value.items()}
        return value


def parse_policies(text: str, *, source: str) -> PolicyDocument:
    """Return the rules and tests of a TOML document.

    Args:
        text: The document.
        source: Where it comes from, as an error names it.

    Raises:
        InvalidInput: It is not TOML, or not such a document (code `bad_policies`); the message names the rule.
    """
    if len(text) > MAX_DOCUMENT:
        raise _bad(source, f"it has more than {MAX_DOCUMENT} characters")
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad(source, f"it is not TOML: {error}") from None
    try:
        document = PolicyDocument.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _bad(source, f"{_place(first['loc'])}: {validation_message(first['type'], first['msg'])}") from None
    ids = Counter(rule.id for rule in document.rule if rule.id is not None)
    twice = sorted(each for each, count in ids.items() if count > 1)
    if twice:
        raise _bad(source, f"several rules have the id {twice[0]!r}")
    return document


def _place(location: tuple[int | str, ...]) -> str:
    parts = list(location)
    if len(parts) > 1 and isinstance(parts[1], int):
        parts[:2] = [f"{parts[0]} {parts[1] + 1}"]
    return " ".join(str(part) for part in parts) or "the document"


def _same(value: Scalar, other: Scalar) -> bool:
    # `True == 1` in Python, not in JSON
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def _bad(source: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"The policies in {source} cannot be used: {why}.", code="bad_policies", hint=f"a rule is {_EXAMPLE}"
    )
