"""Faults and the checks after them.

`installation` runs processes that a test kills and starts again, `live_call` makes calls to them, `tcp_proxy` and `disk` break
connections and disks, `load` submits work continuously, and `invariants` and `store_reader` check what is stored afterwards.
"""
