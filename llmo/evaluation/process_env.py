"""A population that processes of this machine share: numbers go through shared memory, the rest through pipes."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.evaluation.processes import WorkerLost, context, prepare_worker
from llmo.evaluation.worker import Frame, Share, Worker
from llmo.evaluation.worker_env import WorkerVecEnv

NUMBERS = {"observations": np.float32, "masks": np.bool_, "rewards": np.float32, "dones": np.bool_}
"""The fields of a `Frame` that go through shared memory."""


class SharedFrame:
    """The numbers of n slots in memory that two processes share.

    The memory has no name, so nothing is left behind however the processes end.

    Args:
        slots: n.
        features: Entries of an observation.
        actions: Entries of a mask.
    """

    def __init__(self, slots: int, features: int, actions: int) -> None:
        self._shapes = {"observations": (slots, features), "masks": (slots, actions), "rewards": (slots,)}
        self._shapes["dones"] = (slots,)
        sizes = {name: int(np.prod(shape)) * np.dtype(NUMBERS[name]).itemsize for name, shape in self._shapes.items()}
        self._memory = {name: multiprocessing.RawArray("b", size) for name, size in sizes.items()}

    def write(self, frame: Frame) -> None:
        """Put the numbers of a frame there."""
        for name in NUMBERS:
            self._view(name)[:] = getattr(frame, name)

    def read(self) -> dict[str, NDArray[Any]]:
        """A copy of what is there, by name."""
        return {name: self._view(name).copy() for name in NUMBERS}

    def _view(self, name: str) -> NDArray[Any]:
        return np.frombuffer(self._memory[name], NUMBERS[name]).reshape(self._shapes[name])


def _serve(
    pipe: Connection, shared: SharedFrame, on: set[int] | None, environment: dict[str, str], arguments: dict[str, Any]
) -> None:
    """The life of one worker process: answer requests until nobody is left who asks."""
    if on is not None:
        os.sched_setaffinity(0, on)
    prepare_worker(environment)
    share = Share(**arguments)
    while True:
        try:
            number, method, values = pipe.recv()
            pipe.send((number, *_answer(share, shared, method, values)))
        except (EOFError, OSError):
            return


def _answer(share: Share, shared: SharedFrame, method: str, values: tuple[Any, ...]) -> tuple[bool, Any]:
    """Whether a request went well, and its answer without the numbers, or the error."""
    try:
        frame = share.answer(method, *values)
    except Exception as error:
        error.add_note(traceback.format_exc())
        return False, error
    if frame is None:
        return True, None
    shared.write(frame)
    return True, (frame.infos, frame.reset_infos)


class ProcessWorker(Worker):
    """A share in a process of its own.

    Args:
        shared: For the numbers of its slots.
        on: Cores that it may use; None where the system does not say.
        arguments: Of `PopulationVecEnv`.
    """

    def __init__(self, shared: SharedFrame, on: set[int] | None, arguments: dict[str, Any]) -> None:
        self._shared = shared
        self._pipe, there = multiprocessing.Pipe()
        self._asked = 0
        given = (there, shared, on, dict(os.environ), arguments)
        self.process: Any = context().Process(target=_serve, args=given, daemon=True)  # type: ignore[attr-defined]
        self.process.start()
        there.close()

    def send(self, method: str, *arguments: Any) -> None:
        """See `Worker.send`."""
        self._asked += 1
        try:
            self._pipe.send((self._asked, method, arguments))
        except OSError as error:
            raise self._died() from error

    def receive(self, seconds: float) -> Any:
        """See `Worker.receive`."""
        number = 0
        # The answer to a request whose asker was interrupted is passed over.
        while number != self._asked:
            try:
                if not self._pipe.poll(seconds):
                    raise WorkerLost("gave no answer in time")
                number, sound, value = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise self._died() from error
        if not sound:
            raise WorkerLost("is out of memory") if isinstance(value, MemoryError) else value
        return None if value is None else Frame(**self._shared.read(), infos=value[0], reset_infos=value[1])

    def end(self) -> None:
        """See `Worker.end`."""
        self.process.kill()
        self.process.join()
        self._pipe.close()

    def _died(self) -> WorkerLost:
        self.process.join(5)
        return WorkerLost(f"has ended with status {self.process.exitcode}")


class ProcessVecEnv(WorkerVecEnv):
    """A population shared by processes of this machine; see `WorkerVecEnv`.

    Where there are as many of them as cores, each keeps to its core.
    """

    def _start(self, worker: int) -> Worker:
        shared = SharedFrame(self._each, self._features, self._menu)
        return ProcessWorker(shared, self._cores_of(worker), self._arguments[worker])

    def _cores_of(self, worker: int) -> set[int] | None:
        if not hasattr(os, "sched_getaffinity"):
            return None
        own = os.sched_getaffinity(0)
        # Fewer would crowd on the first cores, which may be two threads of one, together with those of other commands.
        return {sorted(own)[worker]} if len(self._arguments) == len(own) else own
