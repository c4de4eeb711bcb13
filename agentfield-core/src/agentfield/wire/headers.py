"""Names of the HTTP headers that carry the identity of a call; the control plane verifies them and never trusts them."""

from __future__ import annotations

__all__ = ["ACTOR_ID", "EXECUTION_ID", "IDEMPOTENCY_KEY", "PARENT_EXECUTION_ID", "RUN_ID", "SESSION_ID", "WORKFLOW_ID"]

SESSION_ID = "X-Session-ID"
RUN_ID = "X-Run-ID"
WORKFLOW_ID = "X-Workflow-ID"
EXECUTION_ID = "X-Execution-ID"
PARENT_EXECUTION_ID = "X-Parent-Execution-ID"
ACTOR_ID = "X-Actor-ID"
IDEMPOTENCY_KEY = "Idempotency-Key"
