"""`Reasoner`: a declared function with its schemas and retry policy, and the execution of one attempt."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any, Literal

from pydantic import ValidationError

from agentfield.arguments import check_seconds
from agentfield.errors import AgentFieldError, ExecutionFailed, InvalidInput
from agentfield.schema import InputModel, output_schema, plain_json, summary
from agentfield.values import Encoded, encode_off_loop
from agentfield.wire.node_declarations import FunctionSpec

__all__ = ["OnInterrupt", "Reasoner", "RetryOn"]

OnInterrupt = Literal["keep", "cancel"]
"""Whether a call is kept or cancelled when the caller speaks over the reply that made it."""

RetryOn = type[Exception] | str | Iterable[type[Exception] | str]
"""Failures after which another attempt is made: exception classes, and codes of `AgentFieldError`."""


_RESULT_HINT = "Return dicts, lists, text, numbers, booleans, None, pydantic models or dataclasses."


class Reasoner:
    """A declared function.

    Args:
        fn: The function, ``async def`` or ``def``; the latter runs in a thread.
        name: Name behind the node id, by default the function's own.
        description: Shown to callers and models; by default the docstring.
        tags: Tags for access rules.
        timeout: Seconds that one attempt may take, None for as long as its caller waits.
        retries: Further attempts after one that was lost with its node, or that failed with one of `retry_on`; leave it 0
            unless running twice is harmless.
        retry_on: Exception classes, and codes of `AgentFieldError`, after which another attempt is made.
        backoff: Seconds before the second attempt; doubled for each further one, up to a minute.
        concurrency: How many attempts may run at a time, on all instances of the node together.
        on_interrupt: Whether a call that a model made is kept or cancelled when the caller speaks over the reply.
        namespace: Names that the type hints may use beyond those of the module.

    Raises:
        InvalidInput: The declaration is invalid.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        tags: tuple[str, ...] = (),
        timeout: float | None = None,
        retries: int = 0,
        retry_on: RetryOn = (),
        backoff: float = 0.5,
        concurrency: int | None = None,
        on_interrupt: OnInterrupt = "keep",
        namespace: Mapping[str, Any] | None = None,
    ) -> None:
        self.fn = fn
        self._input_model = InputModel(fn, namespace=namespace)
        self._is_async = inspect.iscoroutinefunction(inspect.unwrap(fn)) or inspect.iscoroutinefunction(fn)
        if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
            raise InvalidInput(
                f"{self._input_model.name} yields; a reasoner returns one value.",
                code="invalid_declaration",
                hint="Collect the yielded values and return them.",
                field=self._input_model.name,
            )
        check_seconds(timeout)
        values = {
            "name": name or self._input_model.name,
            "description": summary(fn) if description is None else description,
            "input_schema": self._input_model.schema,
            "output_schema": output_schema(fn, namespace=namespace),
            "tags": tuple(tags),
            "timeout": timeout,
            "retries": retries,
            "backoff": backoff,
            "concurrency": concurrency,
            "on_interrupt": on_interrupt,
        }
        try:
            self.spec = FunctionSpec.model_validate(values, strict=True)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in fault["loc"])
            raise InvalidInput(
                f"The reasoner {name or self._input_model.name!r} cannot be declared: {field}: {fault['msg']}.",
                code="invalid_declaration",
                field=field,
            ) from None
        self._retry_classes, self._retry_codes = _parse_retry_on(self.spec.name, retry_on, retries)

    def retries_after(self, error: BaseException) -> bool:
        """Return whether `retry_on` covers an error that the function raised."""
        if isinstance(error, self._retry_classes):
            return True
        return isinstance(error, AgentFieldError) and error.code in self._retry_codes

    async def run(self, values: Mapping[str, Any], threads: Executor) -> Encoded:
        """Call the function with `values` and return its result as plain JSON with its canonical bytes.

        Raises:
            InvalidInput: `values` do not match the parameters.
            ExecutionFailed: The result cannot be carried.
            Exception: Any exception of the function.
        """
        bound = self._input_model.bind(values)
        if self._is_async:
            output = await self.fn(**bound)
        else:
            # The thread gets the task's context variables, so that `context.current()` works there too.
            call = partial(contextvars.copy_context().run, _outcome, self.fn, bound)
            output, error = await asyncio.get_running_loop().run_in_executor(threads, call)
            if error is not None:
                raise error
            if inspect.isawaitable(output):
                output = await output
        try:
            plain = plain_json(output, name="the output")
            return await encode_off_loop(plain, name="the output", schema=self.spec.output_schema)
        except InvalidInput as error:
            raise ExecutionFailed(
                f"{self.spec.name} ran, but its result cannot be carried: {error.message}",
                hint=error.hint or _RESULT_HINT,
                reason=error.code,
                field=error.data.get("field"),
            ) from None


def _outcome(fn: Callable[..., Any], bound: Mapping[str, Any]) -> tuple[Any, BaseException | None]:
    """Call a function and return its output or its exception: a future takes no `StopIteration` and would never be done."""
    try:
        return fn(**bound), None
    except BaseException as error:  # noqa: BLE001 -- raised again in the task of the attempt
        return None, error


def _parse_retry_on(name: str, retry_on: RetryOn, retries: int) -> tuple[tuple[type[Exception], ...], frozenset[str]]:
    listed = (retry_on,) if isinstance(retry_on, type | str) else tuple(retry_on)
    classes = tuple(each for each in listed if isinstance(each, type) and issubclass(each, Exception))
    codes = frozenset(each for each in listed if isinstance(each, str))
    if len(classes) + len(codes) != len(set(listed)):
        raise InvalidInput(
            f"The reasoner {name!r} cannot be declared: retry_on contains a value that is neither an exception class nor an error code.",
            code="invalid_declaration",
            hint="write retry_on=(ConnectionError, 'provider_unavailable')",
            field="retry_on",
        )
    if listed and not retries:
        raise InvalidInput(
            f"The reasoner {name!r} cannot be declared: retry_on is given, but retries=0 allows no further attempt.",
            code="invalid_declaration",
            hint="write retries=3",
            field="retries",
        )
    return classes, codes
