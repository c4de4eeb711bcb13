"""Installations of real processes for tests of whole calls.

`programs` starts and ends processes; `installation` runs a control plane with its agents; `recordings` holds the speech that
callers play; `live_call` calls a session as its caller's page does and keeps what is recorded of it. Read them in this order.
"""
