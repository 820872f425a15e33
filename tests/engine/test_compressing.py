"""Pruned and rounded weights against torch's own, and what training does to them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from llmo.engine.compressing import GRID, prune, quantise
from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.single import Single
from llmo.engine.state import Problem

SHAPE = ModelShape(8, 2)
MakeProblem = Callable[..., Problem]


def test_pruning_is_torchs_global_one() -> None:
    model = build_model(SHAPE, 0)
    executor = Single(build_model(SHAPE, 0))
    layout = executor.layout
    values = torch.zeros(layout.width)
    values[: layout.size] = layout.flatten(model)
    prune(values, layout.matrices.bool(), 0.3)
    matrices = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    unique = {id(module.weight): module for module in matrices}.values()
    torch_prune.global_unstructured([(module, "weight") for module in unique], torch_prune.L1Unstructured, amount=0.3)
    # The head is tied to the embedding; torch replaces the one that it was given.
    expected = {name: module.weight for name, module in model.named_modules() if module in unique}
    for name, view in layout.unflatten(values).items():
        module = name.removesuffix(".weight")
        if module in expected:
            torch.testing.assert_close(view, expected[module].detach())


@pytest.mark.parametrize("executor", ["single", "batched"])
def test_a_pruned_share_is_really_zero_and_stays_so(make_problem: MakeProblem, executor: str) -> None:
    run = Run(build_model(SHAPE, 0), 1, executor)
    run.load(0, make_problem(learning_rate=0.02))
    run.train([0])
    run.evaluate([0])
    matrices = run.layout.matrices.bool()
    for level, share in enumerate((0.3, 0.5), 1):
        run.prune_more(0)
        for _ in range(3):
            run.train([0])
            measured = run.evaluate([0])[0]
            weights = run.rows[0].weights
            assert int((weights[matrices] == 0).sum()) == round(share * int(matrices.sum()))
        assert run.states[0].hyperparameters.sparsity == level
        assert measured.size == pytest.approx(1 - share * int(matrices.sum()) / run.layout.size, rel=1e-3)
    run.fresh_adapter(0)
    run.train([0])
    run.merge_adapter(0)
    assert int((run.rows[0].weights[matrices] == 0).sum()) == round(0.5 * int(matrices.sum()))
    run.load_averaged(0)
    assert int((run.rows[0].weights[matrices] == 0).sum()) == round(0.5 * int(matrices.sum()))


def test_rounding_is_torchs_int8_and_within_half_a_step() -> None:
    executor = Single(build_model(SHAPE, 0))
    layout = executor.layout
    weights = torch.zeros(layout.width)
    weights[: layout.size] = layout.flatten(build_model(SHAPE, 0))
    before = weights.clone()
    quantise(layout, weights)
    changed = torch.zeros(layout.width, dtype=torch.bool)
    for linear in layout.linears:
        was, now = (linear.matrices(row[None])[0] for row in (before, weights))
        scales = was.abs().amax(1) / GRID
        theirs = torch.quantize_per_channel(was, scales, torch.zeros(len(scales)), 0, torch.qint8).dequantize()
        torch.testing.assert_close(now, theirs, rtol=1e-6, atol=1e-7)
        assert ((now - was).abs() <= scales[:, None] / 2 * 1.001).all()
        assert all(len(row.unique()) <= 2 * GRID + 1 for row in now)
        changed[linear.weight : linear.weight + was.numel()] = True
    assert torch.equal(weights[~changed], before[~changed])


def test_rounded_weights_are_not_trained_on(make_problem: MakeProblem) -> None:
    run = Run(build_model(SHAPE, 0), 1, "batched")
    run.load(0, make_problem(learning_rate=0.02))
    run.train([0])
    run.evaluate([0])
    run.quantise(0)
    grid = run.rows[0].weights.clone()
    for _ in range(3):
        run.train([0])
    measured = run.evaluate([0])[0]
    assert torch.equal(run.rows[0].weights, grid) and run.rows[0].factors is not None
    eight = sum(linear.outputs * linear.inputs for linear in run.layout.linears)
    assert measured.size == pytest.approx(1 - 0.75 * eight / run.layout.size, rel=0.02)
    assert not run.mixes(0)
