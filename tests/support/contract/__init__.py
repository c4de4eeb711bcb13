"""The contract tests' shared code: what each provider/transport pair promises, and calls that prove it.

`installation` and `callers` run a session of a pair in this process, with `brains` at the provider's end; `session` records what
happens in it; `variants` are the behaviours that the simulated provider can have; `scenarios` runs a test over pairs and variants;
`leaks` checks that nothing is left behind; `proofs` says which test proves which capability, and `verified` writes the page about it.
"""
