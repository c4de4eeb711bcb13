"""Signatures of Twilio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_twilio.signature import equivalent_urls, is_signed, signature

URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
FORM = (
    ("CallSid", "CA1234567890ABCDE"),
    ("Digits", "1234"),
    ("From", "+14158675309"),
    ("To", "+18005551212"),
    ("Caller", "+14158675309"),
)


def test_the_published_example_is_signed_as_published():
    """The published example of Twilio's libraries has the published signature."""
    assert signature("12345", URL, FORM) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


@given(st.permutations(FORM))
def test_the_order_of_the_form_does_not_matter(form):
    """Names are sorted before signing."""
    assert is_signed("12345", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", URL, form)


@pytest.mark.parametrize(
    ("token", "given", "url", "form"),
    [
        ("12346", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", URL, FORM),
        ("12345", "RSOYDt4T1cUTdK1PDd93/VVr8B9=", URL, FORM),
        ("12345", "", URL, FORM),
        ("12345", "\udcff", URL, FORM),
        ("12345", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", URL + "0", FORM),
        ("12345", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", URL, FORM[1:]),
        ("12345", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", URL, (*FORM, ("More", "1"))),
    ],
)
def test_other_signatures_are_refused(token, given, url, form):
    """Another token, signature, URL or form is refused."""
    assert not is_signed(token, given, url, form)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://a.example/x", {"https://a.example/x", "https://a.example:443/x"}),
        ("https://a.example:443/x", {"https://a.example/x", "https://a.example:443/x"}),
        ("https://a.example:8443/x?q=1", {"https://a.example:8443/x?q=1"}),
        (
            "wss://a.example/x",
            {"wss://a.example/x", "wss://a.example/x/", "wss://a.example:443/x", "wss://a.example:443/x/"},
        ),
        ("ws://127.0.0.1:80/x", {f"ws://127.0.0.1{port}/x{end}" for port in ("", ":80") for end in ("", "/")}),
    ],
)
def test_equivalent_urls_are_accepted(url, same):
    """The default port is optional, and a WebSocket URL may end in a slash."""
    assert set(equivalent_urls(url)) == same
