"""Proof: the issuer's key, and what the control plane signs with it so that others can verify the record of a run.

Recorded executions and events go in; credentials, signed heads, anchors in the control plane's own log, and exports come out.
Read `issuer_key` and `secret_box`, then `issuing`.
"""
