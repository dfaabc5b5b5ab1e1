"""A few helper threads for kernels that release the GIL.

Used instead of numba's parallel loops, whose thread pools abort the process when two Python threads call at once or after
a fork, and keep spinning while torch computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

WORTH_SHARING = 2048
"""Cells of a single frame from which on its rows are shared among threads: below, waking a thread takes as long as the work."""
_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)


def bands(batch: int, height: int, width: int, most: int) -> list[tuple[int, int, int]]:
    """Tasks of `batch` frames: which, and first and end of its rows. Large frames of small batches are cut in `most`.

    The number of threads plays no part, so that results do not depend on it.
    """
    number = most if batch < most and height * width >= WORTH_SHARING else 1
    edges = [height * k // number for k in range(number + 1)]
    return [(b, edges[k], edges[k + 1]) for b in range(batch) for k in range(number)]


def ranges(count: int, least: int = 1) -> list[tuple[int, int]]:
    """[0, count) in two parts a thread of torch, of `least` or more each: first and end. Results do not depend on it.

    For one thread, and where there is too little to share, it is one part: a helper's waking costs some 0.1 ms.
    """
    threads = torch.get_num_threads()
    parts = min(2 * threads if threads > 1 else 1, max(count // least, 1), count)
    edges = [count * k // max(parts, 1) for k in range(parts + 1)]
    return list(pairwise(edges))


def for_each(function: Callable[..., None], tasks: Iterable[tuple]) -> None:
    """Call `function(*task)` for every task, on as many threads as torch is set to use, this one included."""
    tasks = list(tasks)
    helpers = min(torch.get_num_threads(), len(tasks)) - 1
    pending = iter(tasks)

    def work() -> None:
        for task in pending:
            function(*task)

    if helpers < 1:
        work()
        return
    pool = _pools.get(helpers) or _pools.setdefault(helpers, ThreadPoolExecutor(helpers, thread_name_prefix="liftwm-paint"))
    futures = [pool.submit(work) for _ in range(helpers)]
    work()
    for future in futures:
        if not future.cancel():  # on a busy machine a helper may not have begun, and then has nothing left to do
            future.result()
