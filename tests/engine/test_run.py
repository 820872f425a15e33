"""What a run does: costs, schedules, the world's changes, divergence, rolling back."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from llmo.engine.batches import draw_batches
from llmo.engine.models import ModelShape, build_model
from llmo.engine.optimizer import BETAS, CLIP_NORM
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.errors import LlmoError
from llmo.evaluation.compare import difference
from llmo.tasks.causal_lm import CausalLM

SHAPE = ModelShape(8, 2)
MakeProblem = Callable[..., Problem]


def started(problem: Problem, executor: str = "single") -> Run:
    run = Run(build_model(SHAPE, 0), 1, executor)
    run.load(0, problem)
    run.evaluate([0])
    return run


def test_every_pass_is_charged(make_problem: MakeProblem) -> None:
    problem = make_problem(teacher=True)
    run = Run(build_model(SHAPE, 0), 1)
    run.load(0, problem)
    state, task = run.states[0], problem.task
    plain = run.cost(0, problem)
    validation = len(task.validation.inputs)
    assert state.spent == validation * state.teacher_cost > 0
    first = run.evaluate([0])[0]
    assert first.cost == state.spent == validation * (state.teacher_cost + plain.forward)

    for mode, soft in (("off", 0.0), ("teacher", state.teacher_cost), ("averaged", plain.forward)):
        run.change(0, distillation=mode)
        before = state.spent
        run.train([0])
        assert state.spent - before == pytest.approx(problem.interval * problem.batch * (plain.train + soft))
        after = run.evaluate([0])[0]
        assert after.cost == pytest.approx(state.spent - before)
    run.change(0, distillation="off")
    run.fresh_adapter(0)
    lora = run.cost(4, problem)
    before = state.spent
    run.train([0])
    run.evaluate([0])
    expected = problem.interval * problem.batch * lora.train + validation * lora.forward
    assert state.spent - before == pytest.approx(expected)
    assert lora.forward > plain.forward and lora.train < plain.train


def test_training_stops_where_the_budget_ends(make_problem: MakeProblem) -> None:
    run = started(make_problem())
    each, evaluation = run.step_cost(0), run.evaluation_cost(0)
    problem = make_problem(budget=2 * evaluation + 2.5 * each)
    run = started(problem)
    assert run.affordable_steps(0) == 2
    run.train([0])
    assert run.evaluate([0])[0].optimizer_steps == 2
    assert run.affordable_steps(0) == 0
    assert run.states[0].spent <= problem.budget


def test_rows_train_for_as_many_steps_as_each_can_pay(make_problem: MakeProblem) -> None:
    run = Run(build_model(SHAPE, 0), 3)
    for row in range(3):
        run.load(row, make_problem(row, interval=2 + row))
    run.train([0, 1, 2])
    assert [m.optimizer_steps for m in run.evaluate([0, 1, 2])] == [2, 3, 4]
    assert [row.full.steps.item() for row in run.rows] == [2, 3, 4]


def test_a_schedule_sets_the_rate_at_every_step_from_the_budget_spent(make_problem: MakeProblem) -> None:
    run = started(make_problem(interval=5))
    seen: list[float] = []

    def schedule(spent: float) -> float:
        seen.append(spent)
        return 0.5

    run.states[0].schedule = schedule
    run.train([0])
    assert run.evaluate([0])[0].learning_rate == pytest.approx(0.5 * run.default_rate(0))
    assert len(seen) == 5 and all(b > a for a, b in zip(seen, seen[1:]))


def test_the_world_changes_with_the_budget_spent_and_does_not_go_back(make_problem: MakeProblem) -> None:
    evaluation = started(make_problem()).states[0].spent
    run = started(make_problem(budget=3 * evaluation, roles=((0.0, (0, 1, 2)), (0.5, (2, 0, 1)))))
    assert run.states[0].roles == (0, 1, 2)
    run.evaluate([0])
    assert run.states[0].roles == (2, 0, 1)
    run.load_best(0)
    assert run.states[0].roles == (2, 0, 1)


def test_what_is_trained_on_follows_the_roles(make_problem: MakeProblem) -> None:
    task = make_problem().task
    tokens = (np.zeros(300, np.int16), np.full(300, 5, np.int16), np.full(300, 9, np.int16))
    planted = CausalLM(tokens, task.validation.inputs.numpy(), task.test.inputs.numpy())
    losses = {}
    for role in range(3):
        run = Run(build_model(SHAPE, 0), 1)
        run.load(0, replace(make_problem(learning_rate=1e-9), task=planted, roles=((0.0, (role,) * 3),)))
        logits = run.executor.logits(run.effective([0]), torch.full((1, 1, 7), int(tokens[role][0])), 7)
        losses[role] = float(-logits.log_softmax(-1)[0, 0, :, tokens[role][0]].mean())
        run.train([0])
        assert run.evaluate([0])[0].train_loss == pytest.approx(losses[role], rel=1e-4)
    assert len(set(losses.values())) == 3


def test_rolling_back_restores_weights_and_settings_but_gives_no_budget_back(make_problem: MakeProblem) -> None:
    run = started(make_problem(interval=20, learning_rate=0.02, roles=((0.0, (0, 0, 0)),)))
    run.train([0])
    best, settings = run.rows[0].share(), run.states[0].hyperparameters
    measured = run.evaluate([0])[0]
    assert measured.validation_loss == measured.best_validation_loss
    run.change(0, learning_rate=3.0, regularisation=4, mixing="source_3")
    run.fresh_adapter(0)
    run.train([0])
    run.rows[0].own_full().values.mul_(5)
    assert run.evaluate([0])[0].validation_loss > run.states[0].best_loss
    spent, cursor = run.states[0].spent, run.states[0].cursor
    run.load_best(0)
    state = run.states[0]
    found = run.rows[0].share()
    assert torch.equal(found.full, best.full) and found.lora is None
    assert torch.equal(run.rows[0].averaged, run.rows[0].weights)
    assert (state.spent, state.cursor) == (spent, cursor)
    assert (state.rank, state.adapter) == (0, "full")
    assert state.hyperparameters == replace(settings, mixing="source_3")


def test_rolling_back_needs_something_to_go_back_to(make_problem: MakeProblem) -> None:
    run = Run(build_model(SHAPE, 0), 1)
    run.load(0, make_problem())
    with pytest.raises(LlmoError, match="roll back"):
        run.load_best(0)


def test_averaged_weights_are_the_running_mean_of_what_the_batches_saw(make_problem: MakeProblem) -> None:
    run = started(make_problem(interval=1))
    expected = run.rows[0].weights.clone()
    for _ in range(6):
        expected = 0.5 * expected + 0.5 * run.rows[0].weights
        run.train([0])
    torch.testing.assert_close(run.rows[0].averaged, expected)
    run.load_averaged(0)
    assert torch.equal(run.rows[0].weights, run.rows[0].averaged)
    run.fresh_adapter(0)
    run.train([0])
    run.train([0])
    run.load_averaged(0)
    assert run.states[0].rank == 4
    torch.testing.assert_close(run.effective([0])[0], run.rows[0].averaged)


@pytest.mark.parametrize("poison", ["rate", "weights"])
def test_a_diverged_row_keeps_its_best_and_harms_no_other(make_problem: MakeProblem, poison: str) -> None:
    def play(with_bad: bool) -> tuple[Run, list[str]]:
        run = Run(build_model(SHAPE, 0), 3, "batched")
        rows = [0, 1, 2] if with_bad else [0, 2]
        for row in rows:
            run.load(row, make_problem(row, interval=20))
        run.evaluate(rows)
        if with_bad and poison == "rate":
            run.change(1, learning_rate=1e6, regularisation=4)
        elif with_bad:
            run.rows[1].own_full().values[0, 3] = math.nan
        moments = run.rows[1].full.first.clone()
        told = []
        for _ in range(3):
            run.train(rows)
            measured = dict(zip(rows, run.evaluate(rows), strict=True))
            told += [repr(measured[0]), repr(measured[2])]
        if with_bad:
            bad = measured[1]
            assert bad.diverged and math.isinf(bad.validation_loss) and not bad.finite
            assert math.isfinite(bad.best_validation_loss) and math.isfinite(run.test_loss(1))
            assert math.isfinite(bad.update_ratio) and math.isfinite(bad.gradient_norm)
            first = make_problem(1).weights
            assert torch.equal(run.delivered(1)[0, : len(first)], first)
            full = run.rows[1].full
            assert not full.first.isnan().any() and not full.second.isnan().any()
            if poison == "weights":
                assert bad.optimizer_steps == 0 and torch.equal(full.first, moments)
        return run, told

    bad, told = play(True)
    good, expected = play(False)
    assert told == expected
    for row in (0, 2):
        assert not difference(bad.rows[row].share(), good.rows[row].share())


def test_cosines_are_those_of_the_last_gradients(make_problem: MakeProblem) -> None:
    problem = make_problem(interval=3, learning_rate=1e-12)
    run = started(problem)
    run.train([0])
    measured = run.evaluate([0])[0]
    # At a rate of next to nothing all three gradients are taken at one point, so plain torch can take them again.
    first, second, third = (plain_gradient(problem, cursor) for cursor in range(3))
    momentum = BETAS[0] * (1 - BETAS[0]) * first + (1 - BETAS[0]) * second
    cosine = torch.nn.functional.cosine_similarity
    assert measured.gradient_cosine == pytest.approx(float(cosine(third, second, 0)), abs=1e-5)
    assert measured.momentum_cosine == pytest.approx(float(cosine(third, momentum, 0)), abs=1e-5)
    assert measured.update_ratio < 1e-9


def test_how_much_the_first_step_changes_is_known_before_it(make_problem: MakeProblem) -> None:
    """Of torch's own matrices; embeddings of tokens that the batch lacks stay where they are, so a little less."""
    problem = make_problem(interval=1, learning_rate=1e-4)
    run = Run(build_model(SHAPE, 0), 1)
    run.load(0, problem)
    before = run.evaluate([0])[0].update_ratio
    matrices = [parameter for parameter in build_model(SHAPE, 0).parameters() if parameter.ndim == 2]
    numbers = torch.cat([matrix.detach().flatten() for matrix in matrices])
    assert before == pytest.approx(1e-4 / numbers.square().mean().sqrt().item(), rel=1e-4)
    run.train([0])
    assert 0.7 * before < run.evaluate([0])[0].update_ratio < 1.01 * before


def plain_gradient(problem: Problem, cursor: int) -> torch.Tensor:
    """The clipped gradient of one batch at the starting weights, by the plain model."""
    model = build_model(SHAPE, 0)
    torch.nn.utils.vector_to_parameters(problem.weights, model.parameters())
    seeds, steps = np.array([problem.seed], np.uint64), np.array([cursor], np.int64)
    roles = np.array([problem.roles[0][1]])
    inputs, labels, _ = draw_batches(problem.task, seeds, steps, problem.batch, np.full(3, 1 / 3), roles)
    logits = model(torch.from_numpy(inputs[0])).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels[0]).flatten()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_executor_and_replicas_are_checked() -> None:
    with pytest.raises(LlmoError, match="executor"):
        Run(build_model(SHAPE, 0), 1, "vmapp")
    with pytest.raises(LlmoError, match="replicas"):
        Run(build_model(SHAPE, 0), 0)
    for device in ("cuda:99", "nowhere"):
        with pytest.raises(LlmoError, match="device"):
            Run(build_model(SHAPE, 0), device=device)
