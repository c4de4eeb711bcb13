"""`af`: start, watch and make voice calls from a terminal.

Input is a command line; output is text or, with `--json`, one object, and an exit code. Reading order: `main` (entry
point and command tree), `command_table` (names and summaries), `commands` (one module per command), then the packages
that do the work: `call` (the terminal caller), `demo`, `diagnostics`, `processes`, `skeleton`, and `terminal` (output).
`plugin_commands` adds the commands of plugins; `connect` opens the client of the control plane.
"""
