"""Tool calls of the model and calls of the handler.

In: requests of the model, `call` commands of the handler, results of executions. Out: effects that run or cancel
executions, results for the model, answers to the handler, requests that the model speak about results. Reading order:
`batch` (the records), `calls` (the tracker).
"""
