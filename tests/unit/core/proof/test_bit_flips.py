"""Flipped bits: none is accepted and none is a crash, in a credential, a head and an export."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from agentfield.identity import canonical
from agentfield.proof import Report, verify_credential, verify_export, verify_head
from support.core.proof_runs import call_of_a_session

RUN = call_of_a_session()
ISSUER = RUN.plane.key.did
EXPORT = b"".join(RUN.export())
SEED = 20261201


def _lines(data: bytes) -> list[bytes]:
    """Return the lines as a file has them: only a line feed ends one."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _refuse_flips(data: bytes, bits: Iterable[int], verify: Callable[[bytes], Report]) -> None:
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        report = verify(bytes(flipped))
        assert report.verdict == "wrong", f"bit {bit % 8} of byte {bit // 8} of {data[bit // 8 - 20 : bit // 8 + 20]!r}"


@pytest.mark.parametrize("number", [0, 1, -1])
def test_no_bit_of_a_credential_can_be_flipped(number: int) -> None:
    """Every bit of credentials of a tool call, a turn and a session."""
    data = RUN.credentials[number]
    _refuse_flips(data, range(8 * len(data)), lambda flipped: verify_credential(flipped, issuer=None))


def test_no_bit_of_a_head_can_be_flipped() -> None:
    """Every bit of a head."""
    data = canonical(RUN.heads[0])
    _refuse_flips(data, range(8 * len(data)), lambda flipped: verify_head(flipped, issuer=None))


def test_no_bit_of_header_and_end_can_be_flipped() -> None:
    """One bit of every byte of header and last line, and every bit of the last line, with no issuer to compare with."""
    header, end = EXPORT.index(b"\n") + 1, EXPORT.rindex(b"\n", 0, -1) + 1
    flips = random.Random(SEED)
    bits = [8 * byte + flips.randrange(8) for byte in [*range(header), *range(end, len(EXPORT))]]
    _refuse_flips(EXPORT, bits, lambda flipped: verify_export(_lines(flipped), issuer=None))


def test_no_seeded_bit_of_an_export_can_be_flipped() -> None:
    """2,000 bits of an export, from a fixed seed."""
    bits = random.Random(SEED).sample(range(8 * len(EXPORT)), 2000)
    _refuse_flips(EXPORT, bits, lambda flipped: verify_export(_lines(flipped), issuer=None))


@pytest.mark.long
def test_no_byte_of_an_export_can_be_changed() -> None:
    """One bit of every byte of an export."""
    flips = random.Random(SEED)
    bits = [8 * byte + flips.randrange(8) for byte in range(len(EXPORT))]
    _refuse_flips(EXPORT, bits, lambda flipped: verify_export(_lines(flipped), issuer=None))
