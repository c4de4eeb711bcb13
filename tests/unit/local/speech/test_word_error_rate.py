"""Word error rate: comparison of spoken words."""

from __future__ import annotations

import pytest

from support.word_error_rate import normalise, word_error_rate


@pytest.mark.parametrize(
    "said", ["427", "four two seven", "four twenty seven", "4 27", "four hundred and twenty-seven"]
)
def test_ways_to_say_a_number_are_equal(said: str) -> None:
    """All ways to say a number compare equal."""
    assert normalise(f"order {said} please") == ["order", "427", "please"]


def test_inaudible_spelling_is_ignored() -> None:
    """Case, punctuation, hyphens and apostrophes do not count as errors."""
    assert word_error_rate([("it's an ill-disposed man", "Its an ill disposed man.")]) == 0


def test_errors_are_pooled_over_the_set() -> None:
    """A wrong word has the same weight in a short and in a long sentence."""
    assert word_error_rate([("one way", "one day"), ("a b c d e f g h", "a b c d e f g h")]) == pytest.approx(0.1)


@pytest.mark.parametrize(("heard", "errors"), [("a b", 1), ("a b c d", 1), ("a x c", 1), ("", 3)])
def test_each_kind_of_error_counts_once(heard: str, errors: int) -> None:
    """Each missing, added or replaced word is one error."""
    assert word_error_rate([("a b c", heard)]) == pytest.approx(errors / 3)


def test_an_empty_set_has_no_errors() -> None:
    """An empty transcript of silence is correct; words in silence are errors."""
    assert word_error_rate([("", "")]) == 0
    assert word_error_rate([("", "you")]) == 1
