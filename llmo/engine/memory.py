"""What to do when memory does not hold a population: smaller passes first, then an error that says what it takes."""

from __future__ import annotations

import torch
from torch import Tensor

from llmo.engine.executors import Batch, Executor, Gradient
from llmo.errors import LlmoError

HALVINGS = 3
"""How often a pass that memory does not hold is halved."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation has failed, on whatever device."""
    # torch has no class of its own for a failed allocation on the CPU.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def available_bytes(device: torch.device) -> int:
    """Free memory of a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def check_replicas(replicas: int, bytes_each: int, device: torch.device) -> None:
    """Whether memory holds the rows of a population.

    Raises:
        LlmoError: It does not; with the bytes needed.
    """
    free = available_bytes(device)
    if replicas * bytes_each > free:
        needed = f"{replicas} of {bytes_each:,} bytes each, {replicas * bytes_each:,} in all"
        raise LlmoError("replicas", needed, f"at most {free // bytes_each}, as {free:,} bytes are free on {device}")


class Passes:
    """Training passes in as few parts as memory holds.

    Args:
        executor: What runs them.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._parts = 1

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Gradient]:
        """See `Executor.gradient`: the same numbers, however many parts it takes.

        Raises:
            LlmoError: An eighth of the rows is still too much.
        """
        while True:
            try:
                return self._in_parts(rows, batch)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self._parts == 2**HALVINGS or self._parts >= len(rows):
                    told = " ".join(str(error).split())
                    raise LlmoError("memory", told, "fewer replicas, a smaller batch or shorter sequences") from error
            self._parts *= 2

    def _in_parts(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Gradient]:
        size = -(-len(rows) // self._parts)
        if size >= len(rows):
            return self._executor.gradient(rows, batch)
        losses, gradients = [], []
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            found = self._executor.gradient(rows[part], batch.rows(part))
            losses.append(found[0].clone())
            gradients.append(found[1][:].clone())
        return torch.cat(losses), torch.cat(gradients)
