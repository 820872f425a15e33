"""One model through the plain module: a bare loop's gradient, micro-batches, checkpointing and bfloat16."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmo.engine.adapters import grow
from llmo.engine.executors import Batch
from llmo.engine.layout import FactorLayout, Layout
from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.single import SingleSettings
from llmo.engine.state import Problem
from llmo.errors import LlmoError
from llmo.measurement import Measurement

SHAPE = ModelShape(8, 2)
MakeProblem = Callable[..., Problem]


def gpt2() -> Any:
    config = GPT2Config(
        vocab_size=192, n_positions=16, n_embd=8, n_layer=2, n_head=2, attn_implementation="eager",
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def started(model: Any, problem: Problem, frozen: bool = False, **settings: Any) -> Run:
    """A run of a model on a problem, with the model's weights or fresh factors."""
    if frozen:
        layout = FactorLayout(model)
        factors = torch.zeros(layout.size)
        grow(layout.factors, factors, 0, 4, 0)
        problem = replace(problem, weights=factors, rank=4)
    else:
        problem = replace(problem, weights=Layout(model).flatten(model))
    run = Run(model, 1, "single", frozen, single=SingleSettings(**settings))
    run.load(0, problem)
    return run


def measured(run: Run) -> list[Measurement]:
    """The start, plain steps, and steps towards the averaged weights."""
    found = run.evaluate([0])
    for distillation in ("off", "averaged"):
        run.change(0, distillation=distillation)
        run.train([0])
        found += run.evaluate([0])
    return found


def numbers(found: list[Measurement]) -> list[float]:
    return [
        value
        for m in found
        for value in (m.validation_loss, m.train_loss, m.gradient_norm, m.update_ratio, *m.source_loss)
        if value == value
    ]


def one_batch(problem: Problem) -> Batch:
    """The validation sequences as a training batch of one replica."""
    examples = problem.task.validation
    return Batch(examples.inputs[None, :4], examples.labels[None, :4], type(problem.task).loss)


def test_the_gradient_is_that_of_a_bare_loop(make_problem: MakeProblem) -> None:
    problem, model = make_problem(), build_model(SHAPE, 0)
    run, batch = started(model, problem), one_batch(problem)
    losses, gradient = run.executor.gradient(run.effective([0]), batch)
    logits = model.train()(input_ids=batch.inputs[0], use_cache=False).logits
    trained, reported = problem.task.loss(logits[None], batch.labels, None, None)
    trained.mean().backward()
    bare = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])
    torch.testing.assert_close(gradient[0, : len(bare)], bare, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(losses, reported.mean(-1))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("make_model", [lambda: build_model(SHAPE, 0), gpt2])
def test_micro_batches_give_the_numbers_of_the_whole_batch(
    make_problem: MakeProblem, make_model: Callable[[], Any], frozen: bool
) -> None:
    problem = replace(make_problem(regularisation=3, batch=6), interval=10)
    model = make_model()
    whole = started(model, problem, frozen)
    pieces = started(model, problem, frozen, accumulation=3)
    assert numbers(measured(pieces)) == pytest.approx(numbers(measured(whole)), rel=1e-5)
    assert pieces.test_loss(0) == pytest.approx(whole.test_loss(0), rel=1e-5)


def test_a_pass_sees_no_more_than_a_micro_batch(make_problem: MakeProblem) -> None:
    run = started(build_model(SHAPE, 0), make_problem(batch=4), accumulation=2)
    seen: list[int] = []
    run.executor.model.register_forward_pre_hook(
        lambda module, _, given: seen.append(len(given["input_ids"])), with_kwargs=True
    )
    run.train([0])
    run.evaluate([0])
    run.test_loss(0)
    assert max(seen) == 2


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("make_model", [lambda: build_model(SHAPE, 0), gpt2])
def test_checkpointing_computes_activations_again_and_changes_nothing(
    make_problem: MakeProblem, make_model: Callable[[], Any], frozen: bool
) -> None:
    problem, model = make_problem(regularisation=3), make_model()
    found: dict[bool, list[float]] = {}
    calls: dict[bool, int] = {}
    for checkpointing in (False, True):
        run = started(model, problem, frozen, checkpointing=checkpointing)
        count: list[None] = []
        next(m for name, m in run.executor.model.named_modules() if name.endswith("0.mlp")).register_forward_pre_hook(
            lambda *_, count=count: count.append(None)
        )
        run.train([0])
        calls[checkpointing] = len(count)
        found[checkpointing] = numbers(measured(run))
    assert calls == {False: problem.interval, True: 2 * problem.interval}
    assert found[True] == found[False]


@pytest.mark.parametrize("frozen", [False, True])
def test_bfloat16_is_for_the_passes_and_float32_for_what_is_kept(make_problem: MakeProblem, frozen: bool) -> None:
    problem, model = make_problem(interval=10), build_model(SHAPE, 0)
    run = started(model, problem, frozen, precision="bfloat16")
    seen: set[torch.dtype] = set()
    run.executor.model.model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda _, inputs, output: seen.add(output.dtype)
    )
    losses, gradient = run.executor.gradient(run.effective([0]), one_batch(problem))
    logits = run.executor.logits(run.effective([0]), problem.task.validation.inputs[None], problem.task.tokens)
    assert seen == {torch.bfloat16}
    assert {run.rows[0].weights.dtype, losses.dtype, gradient[:].dtype, logits.dtype} == {torch.float32}
    full, half = numbers(measured(started(model, problem, frozen))), numbers(measured(run))
    assert full != half
    assert half == pytest.approx(full, rel=0.05)


def test_what_is_not_usable_is_said(make_problem: MakeProblem) -> None:
    with pytest.raises(LlmoError, match="precision 'float16' .* did you mean 'bfloat16'"):
        SingleSettings(precision="float16")  # type: ignore[arg-type]
    with pytest.raises(LlmoError, match="accumulation 0"):
        SingleSettings(accumulation=0)
    with pytest.raises(LlmoError, match="sequences in a batch 2 .* multiple of 3"):
        started(build_model(SHAPE, 0), make_problem(), accumulation=3)
    with pytest.raises(LlmoError, match="executor 'batched'"):
        Run(build_model(SHAPE, 0), 2, "batched", single=SingleSettings(checkpointing=True))
