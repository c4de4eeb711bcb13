"""Processes of `af run`, `af server`, `af dev` and `af demo`.

Input are agent files, folders and command-line settings; output are running agents and control planes that stop with
the command. Reading order: `agent_file` (runs an agent file in this process), `children` (agent files as child
processes), `reload` (restarts a changed agent without dropping calls), `serve` (settings, signals, `af dev` as a whole).
"""
