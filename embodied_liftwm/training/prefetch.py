"""Batches prepared by a background thread while the model computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Batches = TypeVar("Batches")


class Prefetcher(Generic[Batches]):
    """Calls `prepare` for the steps to come, in a thread of its own.

    A batch is a pure function of its step, so that who prepares it, and when, changes no result. Leaving the `with` block ends
    the thread, whatever the reason; it waits for the one batch in the making.

    Example:
        >>> with Prefetcher(lambda step: 10 * step) as batches:
        ...     [batches.take(step) for step in range(3)]
        [0, 10, 20]
    """

    def __init__(self, prepare: Callable[[int], Batches], ahead: int = 2) -> None:
        """Prepare up to `ahead` steps past the one that was taken last."""
        self._prepare = prepare
        self._ahead = ahead
        self._pending: dict[int, Future[Batches]] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="liftwm-prefetch")

    def take(self, step: int) -> Batches:
        """What `prepare(step)` returns, waiting for it if need be. Raises what it raises."""
        for coming in range(step, step + self._ahead + 1):
            if coming not in self._pending:
                self._pending[coming] = self._executor.submit(self._prepare, coming)
        return self._pending.pop(step).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
