"""Heads that a node holds: each new one must continue the one before; a fork is reported with both heads kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from agentfield.held_heads import HeldHeads
from agentfield.identity import NodeKey, b64url, canonical
from agentfield.proof import Coverage, LogTree, sign_head

KEY = NodeKey.generate()


def event(tree: LogTree, size: int, since: int = 0, log: str = "run_1") -> dict[str, Any]:
    """Return the event of a head over the first events of a log."""
    coverage = Coverage(size=size, root=tree.root(size), final=size == len(tree))
    made: dict[str, Any] = {"type": "log.head", "head": sign_head(KEY, log=log, coverage=coverage, at=1.0)}
    if since:
        made |= {"since": since, "consistency": [b64url(node) for node in tree.consistency(since, size)]}
    return made


def log_of(*names: str) -> LogTree:
    return LogTree(name.encode().ljust(32) for name in names)


LOG = log_of(*(str(n) for n in range(20)))


def test_a_head_that_continues_is_kept(tmp_path: Path) -> None:
    """The file has the bytes of the last head, as `af verify --head` reads them; one of the same size is taken again."""
    heads = HeldHeads(tmp_path)
    for sent in (event(LOG, 3), event(LOG, 7, 3), event(LOG, 20, 7), event(LOG, 20, 20)):
        heads.take("ses_1", sent)
    assert heads.forks == []
    held = heads.last("ses_1")
    assert held is not None
    assert held.coverage.size == 20
    assert (tmp_path / "ses_1.json").read_bytes() == canonical(event(LOG, 20)["head"])
    assert [file.name for file in tmp_path.iterdir()] == ["ses_1.json"]


def test_the_next_process_continues(tmp_path: Path) -> None:
    """Another process on the same folder holds what the first one held, also of a session that is over."""
    HeldHeads(tmp_path).take("ses_1", event(LOG, 7))
    heads = HeldHeads(tmp_path)
    heads.take("ses_1", event(LOG, 20, 7))
    assert heads.forks == []
    heads.take("ses_1", event(REWRITTEN, 20, 20))
    assert len(heads.forks) == 1


def test_the_name_of_a_session_is_no_path(tmp_path: Path) -> None:
    """A control plane cannot make a node write elsewhere."""
    HeldHeads(tmp_path / "heads").take("../../evil", event(LOG, 3))
    assert list(tmp_path.iterdir()) == []


REWRITTEN = log_of(*(str(n) for n in range(5)), "another", *(str(n) for n in range(6, 20)))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(event(REWRITTEN, 12, 7), id="rewritten"),
        pytest.param(event(REWRITTEN, 7), id="other root"),
        pytest.param(event(LOG, 5), id="cut back"),
        pytest.param(event(LOG, 12, 7, log="run_2"), id="other log"),
        pytest.param(event(LOG, 12, 7) | {"consistency": []}, id="no proof"),
        pytest.param({**event(LOG, 12), "since": 7}, id="proof left out"),
    ],
)
def test_a_fork_is_reported(sent: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The held head stays, the one that contradicts it is kept beside it, and the log says so."""
    heads = HeldHeads(tmp_path)
    heads.take("ses_1", event(LOG, 7))
    heads.take("ses_1", sent)
    ((session_id, held, head),) = heads.forks
    assert (session_id, held.coverage.size) == ("ses_1", 7)
    assert heads.last("ses_1") is held
    assert json.loads((tmp_path / "ses_1.json").read_bytes())["size"] == 7
    assert json.loads((tmp_path / f"ses_1-fork-{head.coverage.size}.json").read_bytes()) == sent["head"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "was rewritten" in caplog.text


def test_a_missed_head_is_no_fork(tmp_path: Path) -> None:
    """With a head in between that was lost with a link nothing is proven: the old head is set aside, the new one is held."""
    heads = HeldHeads(tmp_path)
    heads.take("ses_1", event(LOG, 3))
    heads.take("ses_1", event(LOG, 12, 7))
    assert heads.forks == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ses_1-3.json", "ses_1.json"]


@pytest.mark.parametrize("change", [{"head": None}, {"head": {}}, {"consistency": ["?"]}, {"consistency": 7}])
def test_a_malformed_head_is_not_taken(change: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the held one stays."""
    heads = HeldHeads()
    heads.take("ses_1", event(LOG, 3))
    heads.take("ses_1", event(LOG, 7, 3) | change)
    held = heads.last("ses_1")
    assert held is not None
    assert (held.coverage.size, heads.forks) == (3, [])
    assert "malformed" in caplog.text
