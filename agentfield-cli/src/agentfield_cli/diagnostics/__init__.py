"""Checks of an installation, behind `af doctor` and `af plugins`.

Input are the installed distributions, the environment and the data folder; output are `Check` and `Inspection` records
that the commands print. `doctor` runs all checks; `inspection` loads one plugin completely; `foreign_package` finds an
unrelated distribution that shadows the package `agentfield` (standard library only, because our own code may have been overwritten).
"""
