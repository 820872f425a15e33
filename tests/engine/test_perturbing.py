"""Perturbed inputs against autograd by hand, their norms, and what they do to the loss."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

from llmo.engine.executors import Batch
from llmo.engine.models import ModelShape, build_model
from llmo.engine.perturbing import NOISE, RADIUS, SWAPPED, against, noise, swapped
from llmo.engine.run import Run
from llmo.engine.state import Problem

MakeProblem = Callable[..., Problem]


@pytest.fixture(params=["single", "batched"])
def run(request: pytest.FixtureRequest, make_problem: MakeProblem) -> Run:
    run = Run(build_model(ModelShape(8, 2), 0), 1, request.param)
    run.load(0, make_problem(learning_rate=0.02))
    for _ in range(5):
        run.train([0])
    run.evaluate([0])
    return run


def given(run: Run) -> tuple[torch.Tensor, Batch, torch.Tensor, torch.Tensor]:
    problem, rows = run.states[0].problem, run.effective([0]).clone()
    examples = problem.task.validation
    batch = Batch(examples.inputs[None], examples.labels[None], problem.task.loss)
    table = run.layout.unflatten(rows[0])["model.embed_tokens.weight"]
    return rows, batch, table[batch.inputs], table


def loss(run: Run, rows: torch.Tensor, batch: Batch, added: torch.Tensor | None = None) -> torch.Tensor:
    """Of each sequence, by the plain class."""
    model = build_model(ModelShape(8, 2), 0)
    for parameter, value in zip(model.parameters(), run.layout.unflatten(rows[0]).values()):
        parameter.data.copy_(value)
    embedded = model.get_input_embeddings()(batch.inputs[0])
    logits = model(inputs_embeds=embedded if added is None else embedded + added[0]).logits
    return cross_entropy(logits.transpose(1, 2), batch.labels[0], reduction="none").mean(1)


def norms(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(-2).norm(dim=-1)


def test_a_step_goes_up_the_gradient_of_autograd(run: Run) -> None:
    rows, batch, embedded, _ = given(run)
    added = torch.zeros_like(embedded, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(run, rows, batch, added).sum(), added)
    found = against(run.executor, rows, batch, embedded, 1)
    expected = RADIUS * norms(embedded)[..., None, None] * gradient / norms(gradient)[..., None, None]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_several_steps_stay_in_the_ball_and_raise_the_loss_more(run: Run) -> None:
    rows, batch, embedded, _ = given(run)
    one, three = (against(run.executor, rows, batch, embedded, steps) for steps in (1, 3))
    assert (norms(three) <= RADIUS * norms(embedded) * 1.0001).all()
    before, up, higher = (loss(run, rows, batch, added).mean() for added in (None, one, three))
    assert before < up <= higher + 1e-4


def test_swapped_tokens_raise_the_loss_more_than_others(run: Run) -> None:
    rows, batch, embedded, table = given(run)
    inputs = swapped(run.executor, rows, batch, embedded, table[None])
    changed = inputs != batch.inputs
    assert (changed.sum(-1) <= max(1, round(SWAPPED * inputs.shape[-1]))).all() and changed.any()
    worse = loss(run, rows, Batch(inputs, batch.labels, batch.loss)).mean()
    generator = torch.Generator().manual_seed(0)
    others = []
    for _ in range(20):
        tokens = torch.randint(len(table), inputs.shape, generator=generator)
        another = Batch(torch.where(changed, tokens, batch.inputs), batch.labels, batch.loss)
        others.append(loss(run, rows, another).mean())
    assert worse > torch.stack(others).mean()


def test_noise_has_a_tenth_of_the_norm() -> None:
    torch.manual_seed(0)
    embedded = torch.randn(3, 40, 50)
    found = noise(embedded, torch.rand(3, 40, 50))
    torch.testing.assert_close(norms(found) / norms(embedded), torch.full((3,), NOISE), rtol=0.05, atol=0)
    # Uniform, as NEFTune's: no number is larger than the root of three times the mean square.
    assert (found.abs().amax((1, 2)) <= norms(found) * (3 / 2000) ** 0.5 * 1.05).all()
