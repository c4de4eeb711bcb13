"""A reasoner: a function of the node, what it takes and gives, and one run of it."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any, Literal

from pydantic import ValidationError

from agentfield.errors import AgentFieldError, ExecutionFailed, InvalidInput
from agentfield.schema import Inputs, jsonable, output_schema, summary
from agentfield.wire.frames import FunctionSpec

__all__ = ["OnInterrupt", "Reasoner", "RetryOn", "failure"]

OnInterrupt = Literal["keep", "cancel"]
"""What becomes of a run whose reply the caller spoke over."""

RetryOn = type[Exception] | str | Iterable[type[Exception] | str]
"""Failures after which a run is started again: classes of exceptions, and codes of `AgentFieldError`."""


class Reasoner:
    """A declared function.

    Args:
        fn: The function, ``async def`` or ``def``; the latter runs in a thread.
        name: Name behind the node id, the function's own by default.
        description: What callers and models are told, the docstring by default.
        tags: Tags for access rules.
        timeout: Seconds that one run may take, None for as long as its caller waits.
        retries: How often it is started again after a run that was lost with its node, or that failed with one of
            `retry_on`; give 0 unless running twice is harmless.
        retry_on: Classes of exceptions, and codes of `AgentFieldError`, after which it is started again.
        backoff: Seconds before the second attempt; each further pause is twice as long, up to a minute.
        concurrency: How many runs there may be at a time, on all instances of the node together.
        on_interrupt: Whether a run that a model asked for is kept or cancelled when the caller speaks over the reply.
        namespace: Names that the type hints may use beyond those of the module.

    Raises:
        InvalidInput: The declaration does not hold.
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
        self._inputs = Inputs(fn, namespace=namespace)
        self._asynchronous = inspect.iscoroutinefunction(inspect.unwrap(fn)) or inspect.iscoroutinefunction(fn)
        if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
            raise InvalidInput(
                f"{self._inputs.name} yields; a reasoner returns one value.",
                code="invalid_declaration",
                hint="Collect what it yields and return it.",
                field=self._inputs.name,
            )
        try:
            self.spec = FunctionSpec(
                name=name or self._inputs.name,
                description=summary(fn) if description is None else description,
                input_schema=self._inputs.schema,
                output_schema=output_schema(fn, namespace=namespace),
                tags=tuple(tags),
                timeout=timeout,
                retries=retries,
                backoff=backoff,
                concurrency=concurrency,
                on_interrupt=on_interrupt,
            )
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in fault["loc"])
            raise InvalidInput(
                f"The reasoner {name or self._inputs.name!r} cannot be declared: {field}: {fault['msg']}.",
                code="invalid_declaration",
                field=field,
            ) from None
        self._retry_classes, self._retry_codes = _retry_on(self.spec.name, retry_on, retries)

    def retries_after(self, error: BaseException) -> bool:
        """Tell whether the function asked to be run again after it raised this."""
        if isinstance(error, self._retry_classes):
            return True
        return isinstance(error, AgentFieldError) and error.code in self._retry_codes

    async def run(self, values: Mapping[str, Any], threads: Executor) -> Any:
        """Call the function with `values` and return what it gave as plain JSON.

        Raises:
            InvalidInput: `values` do not fit.
            ExecutionFailed: What it returned cannot be passed on.
            Exception: Whatever the function raises.
        """
        bound = self._inputs.bind(values)
        if self._asynchronous:
            output = await self.fn(**bound)
        else:
            # The thread sees the same context variables as the task, so that `current()` works there too.
            call = partial(contextvars.copy_context().run, self.fn, **bound)
            output = await asyncio.get_running_loop().run_in_executor(threads, call)
            if inspect.isawaitable(output):
                output = await output
        try:
            return jsonable(output, what="the output")
        except InvalidInput as error:
            raise ExecutionFailed(
                f"{self.spec.name} returned something that is not JSON: {error.message}",
                hint="Return dicts, lists, text, numbers, booleans, None, pydantic models or dataclasses.",
                reason="not_json",
                field=error.data.get("field"),
            ) from None


def _retry_on(name: str, given: RetryOn, retries: int) -> tuple[tuple[type[Exception], ...], frozenset[str]]:
    listed = (given,) if isinstance(given, type | str) else tuple(given)
    classes = tuple(each for each in listed if isinstance(each, type) and issubclass(each, Exception))
    codes = frozenset(each for each in listed if isinstance(each, str))
    if len(classes) + len(codes) != len(set(listed)):
        raise InvalidInput(
            f"The reasoner {name!r} cannot be declared: retry_on holds something that is neither a class of exceptions nor a code.",
            code="invalid_declaration",
            hint="write retry_on=(ConnectionError, 'provider_unavailable')",
            field="retry_on",
        )
    if listed and not retries:
        raise InvalidInput(
            f"The reasoner {name!r} cannot be declared: retry_on says after what, retries=0 says never.",
            code="invalid_declaration",
            hint="write retries=3",
            field="retries",
        )
    return classes, codes


def failure(target: str, error: BaseException) -> dict[str, Any]:
    """Return what a reasoner raised as a problem document."""
    if isinstance(error, AgentFieldError):
        return {"target": target, **error.to_problem()}
    text = str(error)
    name = type(error).__name__
    return ExecutionFailed(
        f"{target} raised {name}: {text}" if text else f"{target} raised {name}.",
        hint=f"The node's own log has the traceback of {target}.",
        target=target,
        error=name,
    ).to_problem()
