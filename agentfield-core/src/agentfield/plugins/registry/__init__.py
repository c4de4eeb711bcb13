"""The registry of plugins: discovery and loading, resolution of pairs, and its views.

In: installed entry points, or plugin objects. Out: `Registry.resolve`, which returns the adapter of a pair or raises an
error that says why there is none and what to do. To read: `records`, `loading`, `discovery`, `bridged_pairs`, `registry`,
`refusals`; then its users `session_checks`, `matrix`, `matrix_document` and `views`.
"""
