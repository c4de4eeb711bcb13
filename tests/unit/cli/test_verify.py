"""`af verify`: verdicts and their exit codes, what it prints, and what it refuses as input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentfield.identity import canonical
from agentfield_cli.commands import verify as verify_module
from agentfield_cli.main import run
from support.core.proof_runs import call_of_a_session, fixed_key

RUN = call_of_a_session()
ISSUER = RUN.plane.key.did
LINES = RUN.export()


@pytest.fixture
def export(tmp_path: Path) -> str:
    """Return the path of an export that is complete."""
    return _file(tmp_path / "call.jsonl", b"".join(LINES))


def _file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def _json(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, Any]:
    code = run(["verify", *args, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_complete_export(export: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A complete export exits with 0, and the report says what it rests on."""
    head = _file(tmp_path / "head.json", canonical(RUN.heads[0]) + b"\n")
    options = ("--issuer", ISSUER, "--head", head, "--node", RUN.node.did)
    assert run(["verify", export, *options]) == 0
    text = capsys.readouterr().out
    assert text.startswith("complete: a final head covers all events and credentials\n")
    assert f"node         {RUN.node.did} signed 3" in text
    assert f"held head    {RUN.run_id} of size {RUN.heads[0]['size']}: consistent" in text
    assert "not checked" not in text
    code, report = _json(capsys, export, *options)
    assert (code, report["verdict"], report["events"], report["problem"]) == (0, "complete", len(RUN.events), None)


def test_without_an_issuer(export: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --issuer the verdict has an exit code of its own, and the output says that nothing was compared."""
    assert run(["verify", export]) == 12
    text = capsys.readouterr().out
    assert text.startswith("consistent, issuer not pinned\n")
    assert "not checked  the issuer: give its DID, from another source than the file, with --issuer" in text
    assert "not checked  rollback and fork: give a head that you hold with --head" in text
    assert "not checked  the nodes: an issuer can invent one; give the DIDs of yours with --node" in text


def test_a_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An export without a final head is no success."""
    path = _file(tmp_path / "call.jsonl", b"".join(call_of_a_session(final=False).export()))
    code, report = _json(capsys, path, "--issuer", ISSUER)
    assert (code, report["verdict"]) == (10, "prefix")


def test_a_wrong_export_names_the_first_wrong_item(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first wrong item, its line and the reason are printed."""
    at = next(number for number, line in enumerate(LINES) if line.startswith(b'{"event"'))
    path = _file(tmp_path / "call.jsonl", b"".join([*LINES[: at + 3], *LINES[at + 4 :]]))
    assert run(["verify", path, "--issuer", ISSUER]) == 11
    text = capsys.readouterr().out
    assert text.startswith(f"wrong: event 4 (line {at + 4}): Event 4 is expected here, and event 5 stands here.\n")
    assert "code: bad_sequence" in text


def test_single_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A credential and a head are verified by themselves, with one line feed or none."""
    for name, data in (("credential", RUN.credentials[0]), ("head", canonical(RUN.heads[0]))):
        for end, code in ((b"", 0), (b"\n", 0), (b"\n\n", 11), (b"\n{}", 11)):
            found, report = _json(capsys, _file(tmp_path / name, data + end), "--issuer", ISSUER)
            assert (found, report["kind"]) == (code, name)
    assert run(["verify", str(tmp_path / "head")]) == 11


def test_revoked_keys(export: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A stolen key counts up to the size that --revoked names."""
    assert _json(capsys, export, "--issuer", ISSUER, "--revoked", f"{ISSUER}@1")[0] == 0
    code, report = _json(capsys, export, "--issuer", ISSUER, "--revoked", f"{ISSUER}@0")
    assert (code, report["problem"]["code"]) == (11, "bad_binding")


def test_a_rollback(export: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A held head that covers more than the file has is a rollback."""
    longer = call_of_a_session(tools=6)
    head = _file(tmp_path / "head.json", canonical(longer.heads[-1]))
    code, report = _json(capsys, export, "--issuer", ISSUER, "--head", head)
    assert (code, report["problem"]["code"]) == (11, "rollback")


@pytest.mark.parametrize("data", [b"", b"\n", b"{}", b"\x00" * 100, b"hello\n", b"\xff" * 40, b"{" * 5000])
def test_any_other_file_is_wrong(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of anything else is wrong, never a crash."""
    code, report = _json(capsys, _file(tmp_path / "file", data), "--issuer", ISSUER)
    assert (code, report["verdict"]) == (11, "wrong")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--issuer", "did:web:example"], "usage"),
        (["--node", "x"], "usage"),
        (["--revoked", ISSUER], "usage"),
        (["--revoked", f"{ISSUER}@-1"], "usage"),
        (["--head", "missing"], "file_unreadable"),
    ],
)
def test_bad_usage(export: str, options: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Malformed options and unreadable files are refused with exit code 2."""
    found, problem = _json(capsys, export, *options)
    assert (found, problem["code"]) == (2, code)


def test_files_that_are_no_input(export: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a folder, and heads that are malformed or of another run are refused with exit code 2."""
    assert _json(capsys, str(tmp_path / "none"))[1]["code"] == "file_unreadable"
    assert _json(capsys, str(tmp_path))[1]["code"] == "file_unreadable"
    bad = _file(tmp_path / "bad", b"{}")
    assert _json(capsys, export, "--head", bad)[1]["code"] == "bad_document"
    foreign = call_of_a_session()
    foreign.run_id = "run_other"
    head = _file(tmp_path / "foreign", canonical(foreign.head()))
    code, problem = _json(capsys, export, "--issuer", ISSUER, "--head", head)
    assert (code, problem["code"]) == (2, "foreign_head")
    assert fixed_key("control plane").did == ISSUER


def test_a_long_verification_shows_progress(
    export: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress is shown on standard error once the patience is over, and never in JSON."""
    monkeypatch.setattr(verify_module, "_PATIENCE", 0.0)
    run(["verify", export])
    assert "call.jsonl: 64 lines are verified …" in capsys.readouterr().err
    assert len(LINES) >= 64 - 1
