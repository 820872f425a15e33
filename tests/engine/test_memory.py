"""Memory that does not hold a population."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from llmo.engine.executors import Batch
from llmo.engine.memory import HALVINGS, Passes, check_replicas
from llmo.engine.models import ModelShape, build_model
from llmo.engine.rows import Tensors
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.engine.vmapped import Vmapped
from llmo.errors import LlmoError
from llmo.evaluation.compare import difference

SHAPE = ModelShape(8, 2)


class Narrow(Vmapped):
    """Memory for a few rows at once."""

    rows = 2

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        if len(rows) > self.rows:
            raise torch.OutOfMemoryError("tried to allocate 7 bytes")
        return super().gradient(rows, batch)


def test_a_pass_that_does_not_fit_is_halved_and_gives_the_same_bits(make_problem: Callable[..., Problem]) -> None:
    def trained(narrow: bool) -> list[Tensors]:
        run = Run(build_model(SHAPE, 0), 7, "batched")
        if narrow:
            run._passes = Passes(Narrow(build_model(SHAPE, 0)))
        for row in range(7):
            run.load(row, make_problem(row, interval=3 + row % 2, regularisation=row % 5, teacher=True))
            run.change(row, distillation=("off", "teacher")[row % 2])
        run.train(range(7))
        return [row.share() for row in run.rows]

    assert not difference(trained(True), trained(False))


def test_halving_ends_with_an_error_that_tells_the_bytes() -> None:
    executor = Narrow(build_model(SHAPE, 0))
    rows = torch.zeros(2 ** (HALVINGS + 2), executor.layout.width)
    batch = Batch(*torch.zeros(2, len(rows), 2, 4, dtype=torch.long), loss=lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(LlmoError, match="7 bytes"):
        Passes(executor).gradient(rows, batch)


def test_other_errors_are_told_as_they_are() -> None:
    executor = Vmapped(build_model(SHAPE, 0))
    batch = Batch(*torch.full((2, 2, 2, 4), 10**6), loss=lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        Passes(executor).gradient(torch.zeros(2, executor.layout.width), batch)


def test_rows_that_memory_does_not_hold_are_refused_before_they_are_made() -> None:
    with pytest.raises(LlmoError, match="replicas.*bytes"):
        Run(build_model(SHAPE, 0), 10**9)
    check_replicas(2, 8, torch.device("cpu"))


def test_a_failed_allocation_of_torch_is_recognised() -> None:
    script = """
import resource, torch
from llmo.engine.memory import out_of_memory
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
try:
    torch.zeros(2**34)
except RuntimeError as error:
    assert out_of_memory(error), error
    print("recognised")
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "recognised\n"
