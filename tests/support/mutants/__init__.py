"""Mutants: the skeletons of ``af init plugin`` with one fault each, which the conformance kit must name.

`mutant` says what a mutant is and writes its project; `sessions`, `commands`, `failures`, `manifests` and `transports` are the
mutants; `run` runs the kit on them; `page` writes their table into `docs/conformance.md`.
"""
