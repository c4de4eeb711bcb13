"""Declarations of an agent: reasoners and sessions, checked when their decorator runs.

Functions and keyword arguments go in; `Reasoner` and `DeclaredSession` come out, which the node link registers at the
control plane and runs. Read `reasoner` and `session_declaration` before `decorators`.
"""
