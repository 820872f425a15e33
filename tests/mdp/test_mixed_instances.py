"""The instances that fine-tunes are learned on: what a larger batch costs, which rates are right, who shares what."""

from __future__ import annotations

import dataclasses

import pytest

from llmo.budget import sequence_cost
from llmo.kinds import kind_of
from llmo.mdp.instances import Instance, draw_rescaled_instance
from llmo.mdp.mixed_instances import (
    BATCHES,
    build_mixed_problem,
    draw_general_instance,
    draw_longer_instance,
    mixed_template,
)
from llmo.mdp.population import Population
from llmo.mdp.sizes import BATCH, LEAST_INTERVAL, STEPS
from llmo.mdp.spec import env_spec

COUNT = 300


def test_some_batches_are_larger() -> None:
    wide = [draw_longer_instance("dev", index).batches for index in range(COUNT)]
    assert set(wide) == {1, BATCHES}
    assert 0.2 * COUNT < wide.count(BATCHES) < 0.4 * COUNT


def test_half_start_from_a_rate_that_is_about_right() -> None:
    instances = [draw_longer_instance("train", index) for index in range(COUNT)]
    default = [one for one in instances if one.rate_factor == 1.0]
    assert 0.4 * COUNT < len(default) < 0.6 * COUNT
    assert {one.weight_scale for one in default} == {1.0}
    assert len({one.weight_scale for one in instances if one not in default}) > 0.3 * COUNT


@pytest.mark.parametrize("task", ["causal_lm", "classification", "tagging", "seq2seq"])
def test_the_budget_pays_the_larger_batches(task: str) -> None:
    """Counted from the model itself: training passes of every sequence, and the validation passes between them."""
    instances = (draw_longer_instance("train", index) for index in range(COUNT))
    drawn = (one for one in instances if one.task == task and one.batches == BATCHES)
    # Where there is one source, the budget still has what a teacher that was drawn first would have cost.
    instance = next(one for one in drawn if not one.teacher and "source" not in one.closed)
    problem, model = build_mixed_problem(instance), mixed_template(instance)
    positions = problem.task.positions
    cost = sequence_cost(model.config, problem.task.tokens, kind=kind_of(model), positions=positions)
    assert problem.batch >= BATCHES * BATCH
    looks = (instance.steps + 1) * len(problem.task.validation.inputs) * cost.forward
    assert instance.budget == pytest.approx(instance.steps * instance.interval * problem.batch * cost.train + looks)
    assert instance.interval >= LEAST_INTERVAL
    assert STEPS[0] <= instance.steps <= STEPS[1]


def test_a_run_that_only_keeps_takes_the_steps_that_are_planned() -> None:
    spec = env_spec("llmo/FineTune-v2")
    index = next(i for i in range(COUNT) if spec.draw("dev", i, 1.0).batches == BATCHES)
    instance = dataclasses.replace(spec.draw("dev", index, 1.0), closed=())
    population = Population(spec)
    population.reset({0: instance})
    steps, ended = 0, False
    while not ended:
        ended = population.step({0: spec.menu.index("keep")})[0].terminated
        steps += 1
    assert steps == instance.steps


def test_runs_with_unlike_batches_train_side_by_side() -> None:
    """And each gives what it gives alone."""
    spec = env_spec("llmo/General-v0")
    instances = [spec.draw("train", index, 1.0) for index in range(COUNT)]
    shape = instances[0].shape
    alike = [one for one in instances if one.task == "causal_lm" and one.shape == shape]
    chosen = [next(one for one in alike if one.batches == batches) for batches in (1, BATCHES)]
    keep = spec.menu.index("keep")

    def losses(*played: Instance) -> list[float]:
        population = Population(spec, len(played), executor="batched")
        population.reset(dict(enumerate(played)))
        steps = population.step(dict.fromkeys(range(len(played)), keep))
        return [steps[slot].measurement.validation_loss for slot in range(len(played))]

    assert losses(*chosen) == pytest.approx([losses(one)[0] for one in chosen], rel=1e-5)


def test_the_general_environment_has_both_kinds() -> None:
    instances = [draw_general_instance("train", index) for index in range(COUNT)]
    plain = [one for one in instances if one.task == "causal_lm" and one.batches == 1 and one.rate_factor != 1.0]
    assert 0.4 * COUNT < len(plain) < 0.8 * COUNT
    assert [one.index for one in instances] == list(range(COUNT))
    assert len({one.seed for one in instances}) == COUNT
    assert not {one.seed for one in instances} & {draw_rescaled_instance("train", i).seed for i in range(COUNT)}
