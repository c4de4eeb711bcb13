"""Input and output of the terminal, for people and programs.

Input are results, errors and session events; output is text for people, or exactly one JSON object with `--json`.
Reading order: `output` (printing and exit codes), `options` (options that several commands share), `tree` (the
executions of a session as a tree), `session_follower` (prints a session line by line while it runs).
"""
