"""Proof for others: credentials, signed heads of logs, the control plane's own log, exports, and their offline verification.

Plain values and keys go in; signed documents, export lines and reports come out. Nothing here opens a file or a connection.
docs/proof-formats.md is the format. Read `documents` and `credentials`, `trees` and `heads`, `anchors`, then `export`, then
`verification` with its `stages`, `issuers` and `report`.
"""

from __future__ import annotations

from agentfield.proof.anchors import (
    Anchor,
    Rotation,
    anchor_document,
    anchors_entry,
    entry_leaf,
    rotation_document,
    rotation_entry,
)
from agentfield.proof.credentials import CONTEXT, Credential, issue_credential, parse_credential
from agentfield.proof.documents import (
    Kind,
    NodeProof,
    SpeechRecord,
    Subject,
    execution_subject,
    parse_subject,
)
from agentfield.proof.export import MAX_LINE, MAX_LINES, ExportWriter, bounded_lines
from agentfield.proof.heads import CONTROL_PLANE, Coverage, Head, parse_head, sign_head
from agentfield.proof.report import HeldHead, Problem, Report, Verdict
from agentfield.proof.trees import LogTree, Place, document_leaf, verify_consistency
from agentfield.proof.verification import verify_credential, verify_export, verify_file, verify_head

__all__ = [
    "CONTEXT",
    "CONTROL_PLANE",
    "MAX_LINE",
    "MAX_LINES",
    "Anchor",
    "Coverage",
    "Credential",
    "ExportWriter",
    "Head",
    "HeldHead",
    "Kind",
    "LogTree",
    "NodeProof",
    "Place",
    "Problem",
    "Report",
    "Rotation",
    "SpeechRecord",
    "Subject",
    "Verdict",
    "anchor_document",
    "anchors_entry",
    "bounded_lines",
    "document_leaf",
    "entry_leaf",
    "execution_subject",
    "issue_credential",
    "parse_credential",
    "parse_head",
    "parse_subject",
    "rotation_document",
    "rotation_entry",
    "sign_head",
    "verify_consistency",
    "verify_credential",
    "verify_export",
    "verify_file",
    "verify_head",
]
