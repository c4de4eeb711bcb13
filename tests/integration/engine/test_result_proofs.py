"""Proofs of results over real links: one signature for a message, and whatever a node may send instead of its proof."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from agentfield import Agent
from agentfield.identity import NodeKey, ResultProof, inclusion_paths, parse_proof, sign_results
from agentfield.wire.frames import Invoke, Result, ResultAck, RunningAttempt, encode_frame
from agentfield_server.engine.results import check_record
from support.server.engine import Plane, RawNode, plane


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path / "a.db") as running:
        yield running


async def record(cp: Plane, execution_id: str) -> Any:
    row = await cp.store.get_execution(execution_id)
    assert row is not None
    return row


async def test_results_of_a_message_share_a_signature(
    cp: Plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A node under load signs fewer times than it answers; each record is verifiable by itself."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    app = Agent("shop", url=cp.url)

    @app.reasoner()
    async def double(n: int) -> int:
        return 2 * n

    async with app:
        done = await asyncio.gather(*(cp.execute("shop.double", n=n) for n in range(100)))
    rows = [await record(cp, body["id"]) for _, body, _ in done]
    assert [row.output for row in rows] == [2 * n for n in range(100)]
    assert all(map(check_record, rows))
    proofs = [parse_proof(json.loads(row.proof)) for row in rows]
    assert max(proof.size for proof in proofs) > 1
    assert len({proof.signature for proof in proofs}) < len(rows)
    assert {row.signature for row in rows} == {None}


async def test_each_outcome_has_a_proof(cp: Plane) -> None:
    """Failures, cancellations and time limits are stated and signed like outputs."""
    node = RawNode()
    async with node.linked(cp):
        for status in ("succeeded", "failed", "cancelled", "timeout"):
            execution_id = await cp.start("node.fn", n=1)
            problem = None if status == "succeeded" else {"code": "own", "detail": "no"}
            await node.answer(await node.next(Invoke), 1, status=status, problem=problem)
            assert (await cp.finished(execution_id))["status"] == status
            assert check_record(await record(cp, execution_id))


Forge = Callable[[RawNode, Result, bytes, list[bytes]], Result]
OTHERS = [hashlib.sha256(b"%d" % number).digest() for number in range(4)]


def proof_of(node: RawNode, leaf: bytes, *, key: NodeKey | None = None, audience: str | None = None) -> ResultProof:
    """Return the proof of a leaf among others."""
    assert node.challenge is not None
    leaves = [OTHERS[0], leaf, *OTHERS[1:]]
    return sign_results(key or node.key, audience=audience or node.challenge.did or "", leaves=leaves)[1]


def with_proof(result: Result, proof: ResultProof | dict[str, Any], **changes: Any) -> Result:
    document = proof.document() if isinstance(proof, ResultProof) else proof
    return structs.replace(result, proof=document, **changes)


def wrong_path(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    proof = proof_of(node, leaf)
    return with_proof(result, replace(proof, path=(proof.path[1], proof.path[0], *proof.path[2:])))


def path_of_another_root(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    proof, other = proof_of(node, leaf), proof_of(node, OTHERS[3])
    return with_proof(result, replace(proof, root=other.root, signature=other.signature))


def proof_of_another_result(node: RawNode, result: Result, _leaf: bytes, before: list[bytes]) -> Result:
    return with_proof(result, proof_of(node, before[0]))


def signed_by_another_key(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    return with_proof(result, proof_of(node, leaf, key=NodeKey.generate()))


def root_for_another_audience(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    return with_proof(result, proof_of(node, leaf, audience=NodeKey.generate().did))


def leaf_as_inner_node(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    """Present the leaf in the place of its parent, one level up."""
    proof = proof_of(node, leaf)
    return with_proof(result, replace(proof, index=0, size=3, path=proof.path[1:]))


def inner_node_as_leaf(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    """Sign a tree that has the parent of the leaf as a leaf: the path fits, but a tree of another size was signed."""
    assert node.challenge is not None
    parent = hashlib.sha256(b"\x01" + leaf + OTHERS[0]).digest()
    signed = sign_results(node.key, audience=node.challenge.did or "", leaves=[parent, OTHERS[1]])[0]
    _, paths = inclusion_paths([leaf, OTHERS[0], OTHERS[1]])
    return with_proof(result, replace(signed, size=3, path=paths[0]))


def empty_tree(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    return with_proof(result, {**proof_of(node, leaf).document(), "index": 0, "size": 0, "path": []})


def huge_tree(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    return with_proof(result, {**proof_of(node, leaf).document(), "size": 2**50})


def long_path(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    document = proof_of(node, leaf).document()
    return with_proof(result, {**document, "path": document["path"] * 5000})


def another_output(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    return with_proof(result, proof_of(node, leaf), output="another")


def another_retry(node: RawNode, result: Result, leaf: bytes, _: list[bytes]) -> Result:
    return with_proof(result, proof_of(node, leaf), retry=True)


def no_proof(_node: RawNode, result: Result, _leaf: bytes, _: list[bytes]) -> Result:
    return result


def not_a_proof(_node: RawNode, result: Result, _leaf: bytes, _: list[bytes]) -> Result:
    return structs.replace(result, proof="AAAA")


def signature_of_version_1(node: RawNode, result: Result, _leaf: bytes, _: list[bytes]) -> Result:
    invoke = INVOKED[result.execution_id]
    old = RawNode(key=node.key, instance_id=node.instance_id, protocol=1)
    return old.result_of(invoke, "output")


def both(node: RawNode, result: Result, leaf: bytes, before: list[bytes]) -> Result:
    old = signature_of_version_1(node, result, leaf, before)
    return with_proof(old, proof_of(node, leaf))


INVOKED: dict[str, Invoke] = {}


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (wrong_path, "bad_proof"),
        (path_of_another_root, "bad_proof"),
        (proof_of_another_result, "bad_proof"),
        (signed_by_another_key, "bad_signature"),
        (root_for_another_audience, "bad_signature"),
        (leaf_as_inner_node, "bad_proof"),
        (inner_node_as_leaf, "bad_signature"),
        (empty_tree, "bad_proof"),
        (huge_tree, "bad_proof"),
        (long_path, "bad_proof"),
        (another_output, "bad_proof"),
        (another_retry, "bad_proof"),
        (no_proof, "bad_proof"),
        (not_a_proof, "bad_proof"),
        (signature_of_version_1, "bad_proof"),
        (both, "bad_proof"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_a_forged_proof_is_a_failure(cp: Plane, forge: Forge, code: str) -> None:
    """The attempt fails with the reason and without a signer, and is not run again; the link and its other results stay."""
    node = RawNode()
    async with node.linked(cp):
        first = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        good, earlier = node.stated(invoke, "output")
        await node.accept(invoke)
        await node.send(with_proof(good, proof_of(node, earlier)))
        assert (await cp.finished(first))["status"] == "succeeded"
        execution_id = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        INVOKED[execution_id] = invoke
        result, leaf = node.stated(invoke, "output")
        await node.accept(invoke)
        await node.send(forge(node, result, leaf, [earlier]))
        view = await cp.finished(execution_id)
        assert (view["status"], view["problem"]["code"], view["output"]) == ("failed", code, None)
        assert view["attempt"] == 1
        row = await record(cp, execution_id)
        assert (row.signer, row.signature, row.statement, row.proof) == (None, None, None, None)
        assert not check_record(row)
        last = await cp.start("node.fn")
        await node.answer(await node.next(Invoke), "output")
        assert (await cp.finished(last))["status"] == "succeeded"


@pytest.mark.parametrize(
    "field", ["instance_id", "node_id", "audience", "epoch", "attempt", "run_id", "parent_id", "session_id", "function"]
)
async def test_a_statement_about_something_else_is_a_failure(cp: Plane, field: str) -> None:
    """A result that the node stated for another control plane, run, lease, function or process does not count here."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        await node.accept(invoke)
        stranger, asked, challenge = RawNode(key=node.key, instance_id=node.instance_id), invoke, node.challenge
        assert challenge is not None
        if field in ("instance_id", "node_id"):
            setattr(stranger, field, "other")
        elif field == "audience":
            challenge = challenge.model_copy(update={"did": NodeKey.generate().did})
        elif field in ("epoch", "function"):
            asked = structs.replace(
                invoke, **({"epoch": invoke.epoch + 1} if field == "epoch" else {"function": "other"})
            )
        else:
            value = 2 if field == "attempt" else "exe_other"
            asked = structs.replace(invoke, context=structs.replace(invoke.context, **{field: value}))
        stranger.challenge = challenge
        result, leaf = stranger.stated(asked, "output")
        result = structs.replace(result, epoch=invoke.epoch, attempt=1)
        await node.send(with_proof(result, proof_of(node, leaf)))
        view = await cp.finished(execution_id)
    assert (view["status"], view["problem"]["code"]) == ("failed", "bad_proof")


async def test_a_result_is_recognised_by_its_leaf(cp: Plane) -> None:
    """Sent again over a new link, with others and so with another signature, it is acknowledged as recorded."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        await node.answer(invoke, "output")
        assert (await node.next(ResultAck)).accepted
    before = await record(cp, execution_id)
    async with node.linked(cp):
        again, leaf = node.stated(invoke, "output")
        other, other_leaf = node.stated(invoke, "another output")
        await node.send(with_proof(again, proof_of(node, leaf)))
        assert (await node.next(ResultAck)).accepted
        await node.send(with_proof(other, proof_of(node, other_leaf)))
        assert not (await node.next(ResultAck)).accepted
    assert await record(cp, execution_id) == before


async def test_a_reclaimed_attempt_is_verified(tmp_path: Path) -> None:
    """Salts and commitments are those of the store after a restart of the control plane, also of a large input."""
    node, text = RawNode(), "x" * 100_000
    async with plane(tmp_path / "a.db", lease=5.0) as cp, node.linked(cp):
        execution_id = await cp.start("node.fn", text=text)
        invoke = await node.next(Invoke)
        await node.accept(invoke)
    running = (RunningAttempt(execution_id=execution_id, attempt=1, epoch=invoke.epoch),)
    async with plane(tmp_path / "a.db", lease=5.0) as cp, node.linked(cp, running=running):
        await node.send(node.result_of(invoke, "output"))
        assert (await cp.finished(execution_id))["status"] == "succeeded"
        assert check_record(await record(cp, execution_id))


async def test_each_attempt_has_a_salt_of_its_own(cp: Plane) -> None:
    """The salt of the input stays with the execution; the outcomes of two attempts cannot be compared."""
    node = RawNode()
    async with node.linked(cp, functions=(node.functions[0].model_copy(update={"retries": 1, "backoff": 0.0}),)):
        execution_id = await cp.start("node.fn")
        invokes = []
        for _ in range(2):
            invokes.append(await node.next(Invoke))
            await node.answer(invokes[-1], status="failed", problem={"detail": "no"}, retry=True)
        assert (await cp.finished(execution_id))["attempt"] == 2
    first, second = invokes
    assert first.input_salt == second.input_salt
    assert first.output_salt not in (second.output_salt, first.input_salt)


async def test_a_record_is_verifiable_without_its_bodies(cp: Plane) -> None:
    """With bodies and salts erased the statement is still proven; a changed body, statement or signer is found."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn", n=1)
        await node.answer(await node.next(Invoke), {"sum": 3})
        await cp.finished(execution_id)
    row = await record(cp, execution_id)
    assert check_record(row)
    assert check_record(structs.replace(row, input=None, output=None, input_salt=None, output_salt=None))
    for change in (
        {"output": {"sum": 4}},
        {"input": {"n": 2}},
        {"output_salt": bytes(32)},
        {"signer": NodeKey.generate().did},
        {"statement": row.statement.replace("succeeded", "timeout")},
        {"status": "failed"},
        {"run_id": "run_other"},
        {"signer": None},
    ):
        assert not check_record(structs.replace(row, **change)), change


async def test_a_node_of_protocol_1_is_served(cp: Plane) -> None:
    """Beside a node of protocol 2; its records keep a signature of their own, and a proof is refused on its link."""
    old, new = RawNode(node_id="old", protocol=1), RawNode(node_id="new")
    async with old.linked(cp), new.linked(cp):
        for node in (old, new):
            execution_id = await cp.start(f"{node.node_id}.fn", n=1)
            invoke = await node.next(Invoke)
            assert (invoke.input_salt is None) == (node is old)
            await node.answer(invoke, "output")
            assert (await cp.finished(execution_id))["status"] == "succeeded"
            row = await record(cp, execution_id)
            assert check_record(row)
            assert (row.signature is None, row.proof is None) == (node is new, node is old)
            assert not check_record(structs.replace(row, signer=NodeKey.generate().did))
        execution_id = await cp.start("old.fn")
        invoke = await old.next(Invoke)
        await old.accept(invoke)
        salted = structs.replace(invoke, input_salt="A" * 43, output_salt="A" * 43)
        result, leaf = old.stated(salted, "output")
        await old.send(with_proof(result, proof_of(old, leaf)))
        view = await cp.finished(execution_id)
        assert (view["status"], view["problem"]["code"]) == ("failed", "bad_signature")


async def test_a_message_of_many_results(cp: Plane) -> None:
    """Up to 256 results may share a message; each is recorded."""
    node = RawNode(concurrency=300)
    async with node.linked(cp):
        ids = [await cp.start("node.fn", n=n) for n in range(256)]
        results, leaves = [], []
        for execution_id in ids:
            invoke = await node.next(Invoke)
            result, leaf = node.stated(invoke, invoke.input["n"])
            results.append(result)
            leaves.append(leaf)
            assert invoke.context.execution_id == execution_id
        assert node.challenge is not None
        proofs = sign_results(node.key, audience=node.challenge.did or "", leaves=leaves)
        text = "\n".join(encode_frame(with_proof(result, proof)) for result, proof in zip(results, proofs, strict=True))
        assert node.socket is not None
        await node.socket.send_str(text)
        for n, execution_id in enumerate(ids):
            assert (await cp.finished(execution_id))["output"] == n
        rows = [await record(cp, execution_id) for execution_id in ids]
    assert all(map(check_record, rows))
    assert len({parse_proof(json.loads(row.proof)).signature for row in rows}) == 1
