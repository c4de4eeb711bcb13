"""One module per REST resource: each turns requests into calls of a service, and rows of the store into views.

`views` holds the shared views of rows, `execution_parent` resolves the headers that place an execution in a run.
"""
