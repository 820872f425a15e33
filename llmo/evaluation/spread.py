"""Calls spread over workers; what comes out does not depend on who does them. A worker that dies costs its one call."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, TypeVar

from llmo.errors import WorkerError
from llmo.evaluation.processes import ProcessLane, WorkerLost, one_thread
from llmo.evaluation.workers import Workers

T = TypeVar("T")
ATTEMPTS = 3
"""How often a call is begun whose workers die."""


class Lane(Protocol):
    """A worker that takes one call at a time."""

    def submit(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Future[Any]:
        """Begin a call."""

    def outcome(self, future: Future[Any]) -> Any:
        """What a finished call gave or raised; `WorkerLost` if the worker has died."""

    def close(self) -> None:
        """End the worker, whatever it is doing."""


def spread(function: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: Workers) -> Iterator[tuple[int, T]]:
    """Call a function with each tuple of arguments.

    Args:
        function: What to call; it and its arguments can be pickled where there are workers.
        calls: The arguments of each call.
        workers: Who does it.

    Returns:
        The place of each call and what it gave, as they finish.

    Raises:
        WorkerError: The workers that were on one call have died, as often as it was begun.
    """
    if workers.kind == "here":
        one_thread()
        for place, arguments in enumerate(calls):
            yield place, function(*arguments)
        return
    waiting = deque(range(len(calls)))
    lost: Counter[int] = Counter()
    working: dict[Future[T], tuple[int, Lane]] = {}
    lanes = [_lane(workers) for _ in range(min(workers.count, len(calls)))]
    free = list(lanes)
    try:
        while waiting or working:
            while waiting and free:
                place, lane = waiting.popleft(), free.pop()
                working[lane.submit(function, calls[place])] = place, lane
            for future in wait(working, return_when=FIRST_COMPLETED).done:
                place, lane = working.pop(future)
                free.append(lane)
                try:
                    result = lane.outcome(future)
                except WorkerLost as error:
                    lost[place] += 1
                    if lost[place] == ATTEMPTS:
                        raise WorkerError(
                            f"a worker {error}, {ATTEMPTS} times at the same work: if memory is short, take fewer "
                            "--workers; --resume goes on"
                        ) from error
                    waiting.appendleft(place)
                else:
                    yield place, result
    finally:
        # Nobody waits for what is still being worked on after an interrupt or an error.
        for lane in lanes:
            lane.close()


def _lane(workers: Workers) -> Lane:
    if workers.kind == "ray":
        from llmo.evaluation.ray_lane import RayLane

        return RayLane()
    return ProcessLane()
