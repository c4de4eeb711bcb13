"""Rules of access: selectors, edges, denials along a chain, conditions, and the strictness of their file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput
from agentfield_server.access.policies import Member, PolicySet, run_tests
from agentfield_server.access.policy_file import PolicyDocument, Rule, parse_policies

STAFF = Member("key:desk", frozenset({"staff"}))
GUEST = Member("key:door")
VOICE = Member("shop.voice", frozenset({"support:voice"}), frozenset({"support:voice"}))
PAY = Member("bank.pay", frozenset(), frozenset({"money:move"}))
OPEN = Member("shop.hours")

RULES = """
[[rule]]
id = "staff talk"
from = ["tag:staff"]
to = ["tag:support:voice"]
effect = "allow"

[[rule]]
id = "calls pay"
from = ["tag:support:voice"]
to = ["tag:money:move"]
effect = "allow"
when = { amount = { at_most = 100 } }
"""


def rules(text: str) -> PolicySet:
    return PolicySet(7, parse_policies(text, source="a test"))


def allowed(policies: PolicySet, *members: Member, **given: Any) -> bool:
    return policies.decide(members[:-1], members[-1], given).allowed


def test_a_tagged_target_is_closed_without_a_rule() -> None:
    """Deny by default for anything tagged; an untagged target needs no rule."""
    none = PolicySet()
    assert allowed(none, GUEST, OPEN)
    assert not allowed(none, STAFF, VOICE)
    decision = none.decide([STAFF], VOICE, {})
    assert (decision.version, decision.edges[-1].rule) == (0, None)


def test_a_rule_gives_what_it_names_through_what_it_names() -> None:
    """`session X -> target Y` gives X's callers Y through X only; the decision names version and rules."""
    policies = rules(RULES)
    assert allowed(policies, STAFF, VOICE)
    assert not allowed(policies, GUEST, VOICE)
    assert allowed(policies, STAFF, VOICE, PAY, amount=100)
    assert not allowed(policies, STAFF, PAY, amount=1)
    assert not allowed(policies, GUEST, VOICE, PAY, amount=1)
    decision = policies.decide([STAFF, VOICE], PAY, {"amount": 5})
    assert decision.record() == {"version": 7, "rules": ["staff talk", "calls pay"]}


def test_a_tag_that_nobody_approved_restricts_only() -> None:
    """A declared tag closes its target, and gives it no right as a caller."""
    policies = rules(RULES)
    declared = Member("evil.voice", frozenset(), frozenset({"support:voice"}))
    assert not allowed(policies, GUEST, declared)
    assert not allowed(policies, declared, PAY, amount=1)
    assert allowed(policies, STAFF, declared)  # who may call what is tagged so may call it
    assert not allowed(policies, STAFF, declared, PAY, amount=1)


def test_a_denial_of_any_member_wins() -> None:
    """A rule that denies the way from an earlier member of the chain wins over all rules that allow the last edge."""
    denied = rules(RULES + '[[rule]]\nid = "no"\nfrom = ["key:desk"]\nto = ["bank.*"]\neffect = "deny"\n')
    assert allowed(denied, STAFF, VOICE)
    assert not allowed(denied, STAFF, VOICE, PAY, amount=1)
    assert denied.decide([STAFF, VOICE], PAY, {"amount": 1}).edges[-1] == ("key:desk", "bank.pay", False, "no")
    other = Member("key:till", frozenset({"staff"}))
    assert allowed(denied, other, VOICE, PAY, amount=1)
    # also where the denial names a tag that was only declared, or the node that a function runs on
    for selector in ("tag:support:voice", "node:shop", "shop.*", "*"):
        policies = rules(RULES + f'[[rule]]\nfrom = ["{selector}"]\nto = ["bank.pay"]\neffect = "deny"\n')
        assert not allowed(policies, STAFF, VOICE, PAY, amount=1), selector


@pytest.mark.parametrize(
    ("when", "passing", "failing"),
    [
        ("{ amount = { at_most = 100 } }", [0, 100, -5.5], [101, 100.5, "1", None, True, [], {}, float("nan")]),
        ("{ amount = { at_least = 1, at_most = 2 } }", [1, 2, 1.5], [0, 3]),
        ('{ amount = { equals = "eur" } }', ["eur"], ["EUR", 1, None]),
        ("{ amount = { equals = 1 } }", [1, 1.0], [True, "1", 2]),
        ("{ amount = { one_of = [1, true] } }", [1, True], [False, 2]),
    ],
)
def test_conditions(when: str, passing: list[Any], failing: list[Any]) -> None:
    """A rule with conditions applies where all hold; a missing or odd parameter is never allowed, and always denied."""
    some = '[[rule]]\nfrom = ["*"]\nto = ["bank.pay"]\neffect = "{effect}"\nwhen = {when}\n'
    allow = rules(some.format(effect="allow", when=when))
    deny = rules('[[rule]]\nfrom=["*"]\nto=["*"]\neffect="allow"\n' + some.format(effect="deny", when=when))
    for value in passing:
        assert allowed(allow, GUEST, PAY, amount=value), value
        assert not allowed(deny, GUEST, PAY, amount=value), value
    for value in failing:
        assert not allowed(allow, GUEST, PAY, amount=value), value
    assert not allowed(allow, GUEST, PAY)
    assert not allowed(deny, GUEST, PAY)


_selectors = st.sampled_from(["*", "tag:a", "tag:b", "n.f", "n.*", "m.g", "node:n", "key:k", "local", "transport:t"])
_rules = st.lists(
    st.builds(
        lambda callers, targets, effect: Rule(**{"from": tuple(callers), "to": tuple(targets), "effect": effect}),
        st.lists(_selectors, min_size=1, max_size=2),
        st.lists(_selectors, min_size=1, max_size=2),
        st.sampled_from(["allow", "deny"]),
    ),
    max_size=6,
)
_tags = st.frozensets(st.sampled_from(["a", "b"]))
_members = st.builds(Member, st.sampled_from(["n.f", "n.g", "m.g", "key:k", "local", "transport:t"]), _tags, _tags)


def selects(selector: str, member: Member, tags: frozenset[str]) -> bool:
    node = member.name.partition(".")[0] if ":" not in member.name and "." in member.name else None
    return selector in ("*", member.name, *(f"tag:{tag}" for tag in tags)) or (
        node is not None and selector in (f"{node}.*", f"node:{node}")
    )


def plainly(document: tuple[Rule, ...], chain: list[Member], target: Member) -> bool:
    """Decide the slow way, as the documentation says it."""

    def applies(rule: Rule, caller: Member, tags: frozenset[str], called: Member) -> bool:
        return any(selects(each, caller, tags) for each in rule.callers) and any(
            selects(each, called, called.seen) for each in rule.targets
        )

    way = [*chain, target]
    for at in range(len(way) - 1):
        caller, called = way[at], way[at + 1]
        members = chain if called is target and at == len(way) - 2 else [caller]
        if any(
            rule.effect == "deny" and applies(rule, member, member.tags | member.seen, called)
            for rule in document
            for member in members
        ):
            return False
        if called.seen and not any(
            rule.effect == "allow" and applies(rule, caller, caller.tags, called) for rule in document
        ):
            return False
    return True


@given(_rules, st.lists(_members, min_size=1, max_size=4), _members, _rules)
def test_the_compiled_rules_decide_as_the_plain_ones(
    document: list[Rule], chain: list[Member], target: Member, more: list[Rule]
) -> None:
    """Compiled rules decide as a plain reading of them does; another denial never widens what is allowed."""
    decided = PolicySet(1, PolicyDocument(rule=tuple(document))).decide(chain, target, {}).allowed
    assert decided == plainly(tuple(document), chain, target)
    denials = tuple(rule for rule in more if rule.effect == "deny")
    narrowed = PolicySet(1, PolicyDocument(rule=(*document, *denials))).decide(chain, target, {}).allowed
    assert decided or not narrowed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rule = 3", "rule"),
        ("[[rule]]\n", "rule 1 from: is missing"),
        ('[[rule]]\nfrom = ["staff"]\nto = ["*"]\neffect = "allow"', "rule 1 from 0"),
        ('[[rule]]\nfrom = []\nto = ["*"]\neffect = "allow"', "rule 1 from"),
        ('[[rule]]\nfrom = ["*"]\nto = ["*"]\neffect = "maybe"', "rule 1 effect"),
        ('[[rule]]\nfrom = ["*"]\nto = ["*"]\neffect = "allow"\nallow = true', "rule 1 allow"),
        ('[[rule]]\nfrom = ["*"]\nto = ["*"]\neffect = "allow"\nwhen = { a = {} }', "rule 1 when a"),
        ('[[rule]]\nfrom = ["*"]\nto = ["*"]\neffect = "allow"\nwhen = { a = { at_most = "x" } }', "at_most"),
        ('[[rule]]\nid = "a"\nfrom = ["*"]\nto = ["*"]\neffect = "deny"\n' * 2, "several rules have the id 'a'"),
        ("[[rules]]\n", "rules"),
        ("[[rule\n", "not TOML"),
        ("a." * 5000 + "b = 1", ""),
    ],
)
def test_a_document_is_read_strictly(text: str, why: str) -> None:
    """What is unknown, missing or contradictory in a document is refused, and the error names the rule."""
    with pytest.raises(InvalidInput) as caught:
        parse_policies(text, source="p.toml")
    assert caught.value.code == "bad_policies"
    assert why in str(caught.value)


def test_the_tests_in_a_document() -> None:
    """`af access test` runs what the document expects of its own rules."""
    text = (
        RULES
        + """
[[test]]
caller = "key:desk"
target = "shop.voice"
tags = { "key:desk" = ["staff"], "shop.voice" = ["support:voice"] }
expect = "allow"

[[test]]
caller = "key:desk"
through = ["shop.voice"]
target = "bank.pay"
tags = { "key:desk" = ["staff"], "shop.voice" = ["support:voice"], "bank.pay" = ["money:move"] }
input = { amount = 101 }
expect = "allow"
"""
    )
    first, second = run_tests(parse_policies(text, source="p.toml"))
    assert first.passed
    assert not second.passed
    assert second.why == "shop.voice -> bank.pay is refused (no rule)"
