"""One module and many under vmap: the same numbers, and under vmap the same bits wherever a row stands."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.measurement import Measurement

SHAPE = ModelShape(8, 2)
MakeProblem = Callable[..., Problem]
Trained = dict[int, tuple[torch.Tensor, list[Measurement], float]]


def setting(seed: int) -> dict[str, Any]:
    """Rate, decay, dropout, augmentation, mixture and soft targets that differ from row to row."""
    return {
        "learning_rate": 1e-3 * (1 + seed),
        "regularisation": seed % 5,
        "augmentation": ("off", "token_noise", "span_masking")[seed % 3],
        "mixing": ("uniform", "tracking", "source_2", "source_3")[seed % 4],
        "distillation": ("teacher", "off", "averaged")[seed % 3],
        "decay_from": None if seed % 2 else 0.0,
    }


def train(make_problem: MakeProblem, places: dict[int, int], replicas: int, executor: str, interval: int) -> Trained:
    """Train the problems of some seeds in some rows: their tensors, measurements and test losses, by seed.

    Args:
        make_problem: The fixture.
        places: Seed by row.
        replicas: Rows of the run.
        executor: Its name.
        interval: Optimizer steps of an interval; every third seed takes one less, every fifth one more.
    """
    run = Run(build_model(SHAPE, 0), replicas, executor)
    for row, seed in places.items():
        steps = interval - (seed % 3 == 1) + (seed % 5 == 4)
        run.load(row, make_problem(seed, interval=steps, teacher=True, **setting(seed)))
        if seed % 2:
            run.fresh_adapter(row)
        if seed % 4 == 3:
            run.grow_adapter(row)
    rows = list(places)
    measured = [run.evaluate(rows)]
    for _ in range(2):
        run.train(rows)
        measured.append(run.evaluate(rows))
    return {
        seed: (run.rows.buffer[row].clone(), [m[rows.index(row)] for m in measured], run.test_loss(row))
        for row, seed in places.items()
    }


def test_single_and_vmap_agree_after_twenty_steps(make_problem: MakeProblem) -> None:
    together = train(make_problem, {row: row for row in range(6)}, 6, "batched", 10)
    for seed in range(6):
        ((tensors, measured, test_loss),) = train(make_problem, {0: seed}, 1, "single", 10).values()
        other, others, other_loss = together[seed]
        assert torch.linalg.vector_norm(tensors - other) < 1e-4 * torch.linalg.vector_norm(tensors)
        assert test_loss == pytest.approx(other_loss, rel=1e-4)
        for a, b in zip(measured, others, strict=True):
            assert a.validation_loss == pytest.approx(b.validation_loss, rel=1e-4)
            assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3)
            assert a.cost == b.cost and a.optimizer_steps == b.optimizer_steps


def test_a_row_has_the_same_bits_alone_in_any_population_and_at_any_place(make_problem: MakeProblem) -> None:
    seven = train(make_problem, {row: row for row in range(7)}, 7, "batched", 4)
    reversed_ = train(make_problem, {6 - row: row for row in range(7)}, 7, "batched", 4)
    for seed in range(7):
        alone = train(make_problem, {0: seed}, 1, "batched", 4)
        two = train(make_problem, {0: (seed + 1) % 7, 1: seed}, 2, "batched", 4)
        part = train(make_problem, {4: seed}, 7, "batched", 4)
        for other in (reversed_, alone, two, part):
            assert torch.equal(seven[seed][0], other[seed][0])
            # As text: NaN is not equal to itself.
            assert repr(seven[seed][1:]) == repr(other[seed][1:])


def test_explicit_mask_and_positions_are_what_the_model_builds_itself(make_problem: MakeProblem) -> None:
    problem = make_problem()
    run = Run(build_model(SHAPE, 0), 1)
    run.load(0, problem)
    inputs = problem.task.validation.inputs
    logits = run.executor.logits(run.effective([0]), inputs[None])[0]
    torch.testing.assert_close(logits, run.executor.model(input_ids=inputs, use_cache=False).logits)
