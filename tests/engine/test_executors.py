"""Executors give the same numbers, and in one program a row has the same bits wherever it stands."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmo.engine.adapters import grow
from llmo.engine.layout import FactorLayout, Layout
from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.evaluation.compare import difference
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


def llama(seed: int) -> Any:
    return build_model(SHAPE, seed)


def gpt2(seed: int) -> Any:
    config = GPT2Config(
        vocab_size=512, n_positions=16, n_embd=8, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def start(model: Any, frozen: bool, seed: int) -> dict[str, Any]:
    """What a row starts from: weights of its own, or factors of some rank with a B that is not zero."""
    if not frozen:
        return {"weights": Layout(model(seed)).flatten(model(seed))}
    layout = FactorLayout(model(0))
    row, rank = torch.zeros(1, layout.width), (2, 4, 8)[seed % 3]
    grow(layout.factors, row[0], 0, rank, seed)
    generator = torch.Generator().manual_seed(seed)
    for linear in layout.factors:
        linear.factors(row)[1][:, :, :rank] = 0.02 * torch.randn(1, linear.outputs, rank, generator=generator)
    return {"weights": row[0], "rank": rank, "start": "pretrained"}


def train(
    make_problem: MakeProblem,
    places: dict[int, int],
    replicas: int,
    executor: str,
    interval: int,
    model: Any = llama,
    frozen: bool = False,
) -> Trained:
    """Train the problems of some seeds in some rows: their tensors, measurements and test losses, by seed.

    Args:
        make_problem: The fixture.
        places: Seed by row.
        replicas: Rows of the run.
        executor: Its name.
        interval: Optimizer steps of an interval; every third seed takes one less, every fifth one more.
        model: Seed to a model.
        frozen: Whether the rows train factors on one frozen base.
    """
    run = Run(model(0), replicas, executor, frozen)
    for row, seed in places.items():
        steps = interval - (seed % 3 == 1) + (seed % 5 == 4)
        settings = setting(seed) | start(model, frozen, seed)
        run.load(row, make_problem(seed, interval=steps, teacher=True, **settings))
        if seed % 2 and not frozen:
            run.fresh_adapter(row)
        if seed % 4 == 3:
            run.grow_adapter(row)
    rows = list(places)
    measured = [run.evaluate(rows)]
    for _ in range(2):
        run.train(rows)
        measured.append(run.evaluate(rows))
    return {
        seed: (run.rows[row].share(), [m[rows.index(row)] for m in measured], run.test_loss(row))
        for row, seed in places.items()
    }


@pytest.mark.parametrize(
    ("executor", "model", "frozen"),
    [
        ("single", gpt2, False),
        ("batched", llama, False),
        ("batched", gpt2, False),
        ("batched", llama, True),
        ("batched", gpt2, True),
        ("compiled", llama, False),
        ("compiled", gpt2, True),
    ],
)
def test_executors_agree_with_single_after_twenty_steps(
    make_problem: MakeProblem, executor: str, model: Any, frozen: bool
) -> None:
    together = train(make_problem, {row: row for row in range(6)}, 6, executor, 10, model, frozen)
    for seed in range(6):
        ((tensors, measured, test_loss),) = train(make_problem, {0: seed}, 1, "single", 10, model, frozen).values()
        other, others, other_loss = together[seed]
        flat, other_flat = (
            torch.cat([part for part in vars(t).values() if isinstance(part, torch.Tensor)]) for t in (tensors, other)
        )
        assert torch.linalg.vector_norm(flat - other_flat) < 1e-4 * torch.linalg.vector_norm(flat)
        assert test_loss == pytest.approx(other_loss, rel=1e-4)
        for a, b in zip(measured, others, strict=True):
            assert a.validation_loss == pytest.approx(b.validation_loss, rel=1e-4)
            assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3)
            assert a.cost == b.cost and a.optimizer_steps == b.optimizer_steps


@pytest.mark.parametrize(("executor", "frozen"), [("batched", False), ("batched", True), ("compiled", False)])
def test_a_row_has_the_same_bits_alone_in_any_population_and_at_any_place(
    make_problem: MakeProblem, executor: str, frozen: bool
) -> None:
    def trained(places: dict[int, int], replicas: int) -> Trained:
        return train(make_problem, places, replicas, executor, 4, llama, frozen)

    # More rows than a compiled program has lanes, so that some wait for others.
    many = trained({row: row for row in range(10)}, 10)
    reversed_ = trained({9 - row: row for row in range(10)}, 10)
    for seed in range(0, 10, 1 if executor == "batched" else 3):
        alone, part = trained({0: seed}, 1), trained({4: seed}, 7)
        two = trained({0: (seed + 1) % 10, 1: seed}, 2)
        for other in (reversed_, alone, two, part):
            assert not difference(many[seed][0], other[seed][0])
            # As text: NaN is not equal to itself.
            assert repr(many[seed][1:]) == repr(other[seed][1:])


def test_explicit_mask_and_positions_are_what_the_model_builds_itself(make_problem: MakeProblem) -> None:
    problem = make_problem()
    run = Run(build_model(SHAPE, 0), 1)
    run.load(0, problem)
    inputs = problem.task.validation.inputs
    logits = run.executor.logits(run.effective([0]), inputs[None], inputs.shape[-1])[0]
    torch.testing.assert_close(logits, run.executor.model(input_ids=inputs, use_cache=False).logits)
