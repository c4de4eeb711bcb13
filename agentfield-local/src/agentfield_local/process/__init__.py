"""Server process: how the control plane finds, starts and adopts a local server, and the state file between them.

The adapters call `Supervisor.ensure` and get the address and key of a running server. `supervisor` is the control
plane's side; the server's side is `agentfield_local.__main__`, which writes the file of `state_file`. `file_lock`
serialises starts across processes, and `reconnecting_client` follows a server that was started again elsewhere.
"""
