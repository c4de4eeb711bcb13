"""Benchmarks; each measures a floor or a peer in the same run and prints rows. A missed goal is printed, not an error."""
