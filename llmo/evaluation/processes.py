"""Work spread over processes of one thread each; what comes out does not depend on how many there are."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from llmo.errors import LlmoError

T = TypeVar("T")


def worker_count(asked: int | None) -> int:
    """How many processes to use: as many as asked for, 0 for none but this one, or one a core.

    Raises:
        LlmoError: The number is negative.
    """
    if asked is not None and asked < 0:
        raise LlmoError("workers", asked, "a number of processes, 0 to work in this one")
    if asked is not None:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> None:
    """Let torch use one thread in this process: sums may round differently with another number of them."""
    import torch

    torch.set_num_threads(1)


def spread(function: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int) -> Iterator[tuple[int, T]]:
    """Call a function with each tuple of arguments.

    Args:
        function: What to call; it and its arguments can be pickled where there are workers.
        calls: The arguments of each call.
        workers: Processes; 0 calls it in this one.

    Returns:
        The place of each call and what it gave, as they finish.
    """
    if not workers:
        one_thread()
        for place, arguments in enumerate(calls):
            yield place, function(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=one_thread) as pool:
        futures = {pool.submit(function, *arguments): place for place, arguments in enumerate(calls)}
        for future in as_completed(futures):
            yield futures[future], future.result()
