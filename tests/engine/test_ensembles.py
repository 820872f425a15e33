"""Ensembles against plain averages of the modules' own softmax, a vote by hand, and torch's FLOP counter."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import nll_loss
from torch.utils.flop_counter import FlopCounterMode

from llmo.engine.ensembles import SMOOTHED, shares, together
from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.evaluation.compare import difference
from llmo.tasks.task import Examples

SHAPE = ModelShape(8, 2)
MakeProblem = Callable[..., Problem]


@pytest.fixture(params=["single", "batched"])
def run(request: pytest.FixtureRequest, make_problem: MakeProblem) -> Run:
    """Three moments of a training: two in registers, one with an adapter on its weights, and the present one."""
    run = Run(build_model(SHAPE, 0), 2, request.param)
    for row in (0, 1):
        run.load(row, make_problem(learning_rate=0.02, interval=8, budget=1e12))
    run.evaluate([0, 1])
    run.train([0])
    run.evaluate([0])
    run.save(0, "1")
    run.fresh_adapter(0, "lora")
    run.train([0])
    run.evaluate([0])
    run.save(0, "3")
    run.train([0])
    run.evaluate([0])
    return run


def members(run: Run) -> list[torch.Tensor]:
    return [run.effective([0])[0].clone(), *(run.saved_weights(0, name).clone() for name in "13")]


def chances(run: Run, weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Probabilities that a module of transformers gives, [V, P, C]."""
    model: Any = build_model(SHAPE, 0)
    for parameter, value in zip(model.parameters(), run.layout.unflatten(weights).values()):
        parameter.data.copy_(value)
    with torch.no_grad():
        return model(input_ids=inputs).logits.softmax(-1)  # type: ignore[no-any-return]


def loss(found: torch.Tensor, labels: torch.Tensor) -> float:
    return nll_loss(found.log().flatten(0, 1), labels.flatten()).item()


def averaged(run: Run, rows: list[torch.Tensor], part: Examples, share: torch.Tensor) -> float:
    found = torch.stack([chances(run, row, part.inputs) for row in rows])
    return loss((share.view(-1, 1, 1, 1) * found).sum(0), part.labels)


def test_an_average_is_that_of_the_modules_probabilities(run: Run) -> None:
    task, rows = run.states[0].problem.task, members(run)
    alone = torch.tensor([loss(chances(run, row, task.validation.inputs), task.validation.labels) for row in rows])
    share = torch.exp(-alone) / torch.exp(-alone).sum()
    assert run.can_predict_together(0) and not run.can_predict_together(1), "only one has something to predict with"
    run.change(0, prediction="average")
    # So that it becomes the best.
    run.states[0].best_priced = 99.0
    measured = run.evaluate([0, 1])
    assert measured[0].validation_loss == pytest.approx(averaged(run, rows, task.validation, share), rel=1e-5)
    assert run.states[0].own_loss == pytest.approx(alone[0].item(), rel=1e-5)
    # It is delivered as it was, whatever comes then.
    delivered = run.delivered(0)
    torch.testing.assert_close(delivered, torch.stack(rows), rtol=0, atol=0)
    expected = averaged(run, rows, task.test, share)
    assert run.test_loss(0) == pytest.approx(expected, rel=1e-5)
    run.states[0].best_priced = 0.0
    run.rows[0].own_full().values.mul_(5)
    run.evaluate([0])
    run.save(0, "1")
    run.change(0, prediction="alone")
    run.evaluate([0])
    assert torch.equal(run.delivered(0), delivered) and run.test_loss(0) == pytest.approx(expected, rel=1e-5)
    # And a better one alone is delivered alone.
    run.states[0].best_priced = 99.0
    run.evaluate([0])
    assert torch.equal(run.delivered(0), run.effective([0])) and not run.states[0].best_others
    assert not [name for name in run.rows[0].share().kept if name.startswith("best.")]


def test_a_vote_is_one_of_each() -> None:
    # Of three members on two positions: two votes for class 1 and one for class 2; all for class 0.
    logits = torch.zeros(3, 1, 2, 4)
    for member, choices in enumerate(((1, 0), (2, 0), (1, 0))):
        for position, chosen in enumerate(choices):
            logits[member, 0, position, chosen] = 1.0 + member
    found = together(logits, torch.tensor([0.9, 0.05, 0.05]), "vote").exp()
    spread = SMOOTHED / 4
    votes = torch.tensor([[0.0, 2 / 3, 1 / 3, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found[0, 0], (1 - SMOOTHED) * votes + spread)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 1, 2))


def test_a_run_votes_with_the_modules_most_likely_classes(run: Run) -> None:
    part, rows = run.states[0].problem.task.validation, members(run)
    votes = [torch.nn.functional.one_hot(chances(run, row, part.inputs).argmax(-1), 512) for row in rows]
    expected = 0.9 * torch.stack(votes).float().mean(0) + 0.1 / 512
    run.change(0, prediction="vote")
    assert run.evaluate([0])[0].validation_loss == pytest.approx(loss(expected, part.labels), rel=1e-5)


def test_two_equal_members_are_one() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 5, 7)
    half = shares(torch.tensor([2.0, 2.0]))
    assert half.tolist() == [0.5, 0.5]
    torch.testing.assert_close(together(logits.repeat(2, 1, 1, 1), half, "average"), logits.log_softmax(-1))
    one, two = (together(logits.repeat(n, 1, 1, 1), half, "vote") for n in (1, 2))
    torch.testing.assert_close(one, two)


def test_every_member_is_charged_and_weighed(run: Run) -> None:
    state, problem = run.states[0], run.states[0].problem
    alone = run.evaluation_cost(0)
    run.change(0, prediction="average")
    spent = state.spent
    assert run.evaluate([0])[0].size == 3.0
    model = build_model(SHAPE, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=problem.task.validation.inputs)
    one = counter.get_total_flops()
    # Two of the three have an adapter, whose products are charged as PEFT's.
    assert state.spent - spent == run.evaluation_cost(0) == one + 2 * alone and alone > one


def test_nothing_is_offered_that_the_budget_does_not_pay(run: Run) -> None:
    state = run.states[0]
    needed = run.evaluation_cost(0, ("1", "3")) + run.step_cost(0)
    state.problem = replace(state.problem, budget=state.spent + needed)
    assert run.can_predict_together(0)
    run.change(0, prediction="average")
    assert run.can_save(0, "3") and not run.can_save(0, "2")
    run.train([0])
    run.evaluate([0])
    assert state.spent <= state.problem.budget * (1 + 1e-9)
    state.problem = replace(state.problem, budget=state.spent + 0.99 * needed)
    assert not run.can_predict_together(0)


def test_going_back_leaves_who_predicts_and_a_soup_is_of_single_weights(run: Run) -> None:
    assert run.soup_candidates(0)
    run.change(0, prediction="average")
    run.evaluate([0])
    assert not run.soup_candidates(0)
    run.load_saved(0, "1")
    assert run.states[0].hyperparameters.prediction == "average" and run.holds(0, "1")
    run.change(0, prediction="alone")
    run.load_best(0)
    assert run.states[0].hyperparameters.prediction == "alone"
    saved = run.states[0].registers["1"][3]
    run.load_saved(0, "1")
    assert run.evaluate([0])[0].validation_loss == pytest.approx(saved, rel=1e-5)


def test_a_row_that_predicts_together_goes_on_from_a_snapshot_bit_for_bit(run: Run) -> None:
    run.change(0, prediction="average")
    run.train([0, 1])
    run.evaluate([0, 1])
    here = run.snapshot(0)
    run.train([0, 1])
    first = run.evaluate([0, 1]), run.test_loss(0)
    run.save(0, "2")
    run.train([0])
    run.restore(0, here)
    assert not difference(here, run.snapshot(0))
    run.train([0])
    again = run.evaluate([0]), run.test_loss(0)
    assert again[0][0] == first[0][0] and again[1] == first[1]


def test_weights_that_have_diverged_do_not_hide_behind_a_vote(run: Run) -> None:
    run.change(0, prediction="vote")
    run.rows[0].own_full().values.fill_(float("nan"))
    assert run.evaluate([0])[0].diverged
