"""LoRA on flat rows is PEFT's LoRA: what the model computes, its gradients, and a run of optimizer steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from llmo.engine.adapters import adapter_gradient, merge
from llmo.engine.batches import draw_batches
from llmo.engine.executors import Batch
from llmo.engine.models import ModelShape, build_model
from llmo.engine.optimizer import BETAS, CLIP_NORM
from llmo.engine.run import Run
from llmo.engine.state import Problem

SHAPE = ModelShape(8, 2)
MakeProblem = Callable[..., Problem]


def adapted(problem: Problem, rank: int, executor: str = "single") -> Run:
    """A run with an adapter whose B is not zero any more."""
    run = Run(build_model(SHAPE, 0), 1, executor)
    run.load(0, problem)
    run.fresh_adapter(0)
    while run.states[0].rank < rank:
        run.grow_adapter(0)
    torch.manual_seed(0)
    for linear in run.layout.linears:
        _, b = factors(run, linear)
        b[:, :rank] = 0.05 * torch.randn(linear.outputs, rank)
    return run


def in_peft(run: Run, problem: Problem) -> Any:
    """The same model and adapter in PEFT."""
    rank = run.states[0].rank
    model = build_model(SHAPE, 0)
    for parameter, value in zip(model.parameters(), run.layout.unflatten(problem.weights).values()):
        parameter.data.copy_(value)
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    peft = get_peft_model(model, settings).train()
    for linear, module in zip(run.layout.linears, layers(peft), strict=True):
        a, b = factors(run, linear)
        module.lora_A["default"].weight.data.copy_(a[:rank])
        module.lora_B["default"].weight.data.copy_(b[:, :rank])
    return peft


def layers(peft: Any) -> list[Any]:
    return [module for module in peft.modules() if hasattr(module, "lora_A")]


def factors(run: Run, linear: Any, row: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    row = run.rows[0].factors if row is None else row
    a, b = linear.factors(row[None])
    return a[0], b[0]


@pytest.mark.parametrize("rank", [4, 8])
def test_logits_and_gradients_are_pefts(make_problem: MakeProblem, rank: int) -> None:
    problem = make_problem()
    run = adapted(problem, rank)
    peft = in_peft(run, problem)
    examples = problem.task.validation
    logits = peft(input_ids=examples.inputs).logits
    weights = run.effective([0])
    torch.testing.assert_close(
        run.executor.logits(weights, examples.inputs[None], examples.inputs.shape[-1])[0], logits, rtol=1e-5, atol=1e-6
    )

    cross_entropy(logits.flatten(0, 1), examples.labels.flatten()).backward()
    batch = Batch(examples.inputs[None], examples.labels[None], problem.task.loss)
    _, gradient = run.executor.gradient(weights, batch)
    found = adapter_gradient(run.layout, gradient[:], run.rows[0].factors[None])[0]
    for linear, module in zip(run.layout.linears, layers(peft), strict=True):
        a, b = factors(run, linear, found)
        torch.testing.assert_close(a[:rank], module.lora_A["default"].weight.grad, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(b[:, :rank], module.lora_B["default"].weight.grad, rtol=1e-4, atol=1e-7)
        assert torch.all(a[rank:] == 0) and torch.all(b[:, rank:] == 0)


@pytest.mark.parametrize("executor", ["single", "batched"])
def test_optimizer_steps_are_those_of_peft_with_torch_adamw(make_problem: MakeProblem, executor: str) -> None:
    steps = 8
    problem = make_problem(interval=steps, learning_rate=0.03)
    run = adapted(problem, 4, executor)
    peft = in_peft(run, problem)
    trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    state = run.states[0]
    decay = state.hyperparameters.weight_decay
    optimizer = torch.optim.AdamW(
        trained, lr=state.rate_at(state.share, run.default_rate(0)), betas=BETAS, weight_decay=decay
    )
    for step in range(steps):
        seeds, roles = np.array([problem.seed], np.uint64), np.array([[0, 1, 2]])
        inputs, labels, _ = draw_batches(problem.task, seeds, np.array([step]), 2, state.mixture, roles)
        logits = peft(input_ids=torch.from_numpy(inputs[0])).logits
        cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels[0]).flatten()).backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
    run.train([0])
    for linear, module in zip(run.layout.linears, layers(peft), strict=True):
        a, b = factors(run, linear)
        torch.testing.assert_close(a[:4], module.lora_A["default"].weight.data, rtol=5e-4, atol=2e-5)
        torch.testing.assert_close(b[:, :4], module.lora_B["default"].weight.data, rtol=5e-4, atol=2e-5)
    merged = peft.merge_and_unload()
    expected = run.layout.flatten(merged)
    torch.testing.assert_close(run.effective([0])[0, : len(expected)], expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(run.rows[0].weights[: len(expected)], problem.weights)


@pytest.mark.parametrize("change", ["fresh_adapter", "grow_adapter", "merge_adapter"])
def test_a_change_of_adapter_keeps_the_function(make_problem: MakeProblem, change: str) -> None:
    problem = make_problem()
    run = adapted(problem, 4)
    before, relative = run.effective([0]).clone(), run.relative_rate(0)
    getattr(run, change)(0)
    assert run.states[0].rank == {"fresh_adapter": 4, "grow_adapter": 8, "merge_adapter": 0}[change]
    assert torch.equal(run.effective([0]), before)
    assert run.relative_rate(0) == pytest.approx(relative)
    run.train([0])
    assert not torch.equal(run.effective([0]), before)


def test_a_swap_back_and_forth_starts_its_optimizers_afresh(make_problem: MakeProblem) -> None:
    run = Run(build_model(SHAPE, 0), 1)
    run.load(0, make_problem())
    run.train([0])
    run.fresh_adapter(0)
    run.train([0])
    assert run.rows[0].lora.steps.item() == 4
    run.merge_adapter(0)
    assert run.rows[0].lora is None
    moments = run.rows[0].full
    assert not any(part.any() for part in (moments.first, moments.second, moments.steps))


def test_merging_is_the_product_of_the_factors(make_problem: MakeProblem) -> None:
    problem = make_problem()
    run = adapted(problem, 8)
    merged = merge(run.layout, run.rows[0].full.values.clone(), run.rows[0].factors[None])
    linear = run.layout.linears[-1]
    a, b = factors(run, linear)
    here = slice(linear.weight, linear.weight + linear.outputs * linear.inputs)
    change = (merged - run.rows[0].weights)[0, here].view(linear.outputs, linear.inputs)
    torch.testing.assert_close(change, 2 * b @ a, rtol=1e-4, atol=1e-6)
