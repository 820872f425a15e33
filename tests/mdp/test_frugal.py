"""Prices of compute, size and speed: what is charged, what counts as best, and that stopping in time pays."""

import math
from copy import copy
from dataclasses import replace

import pytest
import torch

from llmo.budget import sequence_cost
from llmo.engine.structure import WHOLE_MODEL
from llmo.mdp.frugal_instances import draw_frugal_instance
from llmo.mdp.population import Population
from llmo.mdp.reward import SCALE
from llmo.mdp.spec import env_spec

SPEC = env_spec("llmo/Frugal-v1")
STOP, KEEP, PRUNE, NARROW = (SPEC.menu.index(name) for name in ("stop", "keep", "prune_more", "units_prune"))


@pytest.fixture(scope="module")
def instance():  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    return next(
        one
        for one in (draw_frugal_instance("train", index) for index in range(200))
        if one.shape.depth == 1 and one.interval < 12 and not (one.closed or one.neutral)
    )


def played(instance, actions: list[int], reward: str = "gain") -> tuple[float, Population]:  # type: ignore[no-untyped-def]
    """The whole reward of an episode that begins with some actions and keeps then."""
    population, total = Population(SPEC, 1, reward, executor="batched"), 0.0
    population.reset({0: instance})
    waiting = list(actions)
    while not population.episode(0).ended:
        total += population.step({0: waiting.pop(0) if waiting else KEEP})[0].reward
    return total, population


def test_every_step_is_charged_for_what_it_spends(instance) -> None:  # type: ignore[no-untyped-def]
    priced = replace(instance, price=0.3, size_price=0.0, work_price=0.0)
    total, population = played(priced, [])
    measurements = population.episode(0).history.measurements
    first, last = measurements[0], measurements[-1]
    gained = math.log(first.best_validation_loss / last.best_validation_loss)
    assert total == pytest.approx(SCALE * (gained - 0.3 * (last.spent - first.spent)))
    assert played(priced, [], "final")[0] == pytest.approx(total)
    assert played(replace(priced, price=0.0), [])[0] == pytest.approx(SCALE * gained)


def test_stopping_ends_the_episode_and_leaves_the_budget(instance) -> None:  # type: ignore[no-untyped-def]
    dear, cheap = (replace(instance, price=price, size_price=0.0, work_price=0.0) for price in (5.0, 0.001))
    stopped, population = played(dear, [KEEP, STOP])
    history = population.episode(0).history
    assert history.actions == ["keep", "stop"] and history.last.spent < 0.3
    assert population.test_loss(0) > 0
    assert stopped > played(dear, [])[0]
    assert played(cheap, [KEEP, STOP])[0] < played(cheap, [])[0]


def test_where_nothing_has_a_price_nobody_stops(instance) -> None:  # type: ignore[no-untyped-def]
    population = Population(SPEC, 1)
    population.reset({0: replace(instance, price=0.0)})
    assert not population.mask(0)[STOP]
    population.reset({0: instance})
    assert population.mask(0)[STOP]


def test_a_smaller_model_may_be_the_best_with_a_higher_loss(instance) -> None:  # type: ignore[no-untyped-def]
    dear, free = (replace(instance, price=0.0, size_price=price, work_price=0.0) for price in (2.0, 0.0))
    zeros = []
    for one in (dear, free):
        _, population = played(one, [KEEP] * (instance.steps - 4) + [PRUNE] * 4)
        history = population.episode(0).history
        run = population.run_of(0)
        best = run.rows[0].best_weights
        zeros.append(int((best[run.layout.matrices.bool()] == 0).sum()))
        priced = [m.validation_loss * m.size**one.size_price for m in history.measurements]
        assert history.last.best == pytest.approx(min(priced))
    assert zeros[0] > 1.5 * zeros[1]


def test_a_faster_model_may_be_the_best_with_a_higher_loss(instance) -> None:  # type: ignore[no-untyped-def]
    dear = replace(instance, price=0.0, size_price=0.0, work_price=1.0)
    _, population = played(dear, [KEEP] * (instance.steps - 3) + [NARROW])
    measurements, run = population.episode(0).history.measurements, population.run_of(0)
    narrow, tokens = copy(run.config), run.states[0].problem.task.tokens
    narrow.intermediate_size = run.config.intermediate_size * 3 // 4
    ratio = sequence_cost(narrow, tokens).forward / sequence_cost(run.config, tokens).forward
    assert [m.work for m in measurements] == pytest.approx([1.0] * (instance.steps - 2) + [ratio] * 3)
    assert measurements[-1].best == pytest.approx(min(m.validation_loss * m.work for m in measurements))
    assert measurements[-1].best < min(m.validation_loss for m in measurements)
    assert run.saved_structure(0, "best") == run.states[0].structure != WHOLE_MODEL


def test_a_reference_pays_the_same_price(instance) -> None:  # type: ignore[no-untyped-def]
    """Relative rewards of an episode to the end are free of the price."""
    totals = [
        played(replace(instance, price=price, size_price=0.0, work_price=0.0), [], "relative")[0]
        for price in (0.0, 0.4)
    ]
    assert totals[0] == pytest.approx(totals[1], abs=0.02)
