"""Every action of the menu changes something; restoring undoes it bit for bit, and going on is as if it never was."""

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest
import torch

from llmo.engine.state import State
from llmo.evaluation.compare import difference
from llmo.mdp.instances import Instance, draw_instance
from llmo.mdp.population import Population, Snapshot
from llmo.mdp.spec import env_spec

SPEC = env_spec("llmo/LanguageModel-v0")
# What has to be done before an action is allowed; `wreck` makes the last validation worse than the best.
BEFORE: dict[str, tuple[str, ...]] = {
    "rate_default": ("rate_x0.5",),
    "source_uniform": ("source_2",),
    "augment_off": ("augment_noise",),
    "adapter_full": ("adapter_lora",),
    "adapter_rank_up": ("adapter_lora",),
    "adapter_merge": ("adapter_lora",),
    "distil_off": ("distil_averaged",),
    "rollback": ("rate_x0.5", "wreck"),
}


@pytest.fixture(scope="module")
def instance() -> Instance:
    """A small train instance with a teacher, and with everything on offer."""
    torch.set_num_threads(1)
    for index in range(10_000):
        drawn = draw_instance("train", index)
        if drawn.teacher and not drawn.closed and drawn.shape.depth == 1 and drawn.changes and drawn.interval < 12:
            return drawn
    raise AssertionError("no such instance")


@pytest.fixture(params=["single", "batched"])
def population(request: pytest.FixtureRequest, instance: Instance) -> Iterator[Population]:
    population = Population(SPEC, 1, executor=request.param)
    population.reset({0: instance})
    yield population


def step(population: Population, name: str) -> None:
    population.step({0: SPEC.menu.index(name)})


def go_on(population: Population, name: str) -> None:
    """The action, and two steps in which it has its effect."""
    step(population, name)
    step(population, "keep")
    step(population, "regularise_more")


def prepare(population: Population, name: str) -> None:
    for before in BEFORE.get(name, ()):
        if before == "wreck":
            run = population.run_of(0)
            run.rows[0].own_full().values.mul_(3)
            step(population, "keep")
        else:
            step(population, before)


def assert_same(a: Snapshot, b: Snapshot) -> None:
    assert not difference(a.row.tensors, b.row.tensors)
    for field in fields(State):
        one, other = getattr(a.row.state, field.name), getattr(b.row.state, field.name)
        if isinstance(one, np.ndarray):
            assert np.array_equal(one, other, equal_nan=True), field.name
        elif field.name == "problem":
            assert one is other
        else:
            assert repr(one) == repr(other), field.name
    assert repr(a.episode.history) == repr(b.episode.history)
    assert (a.episode.masked, a.episode.ended) == (b.episode.masked, b.episode.ended)


@pytest.mark.parametrize("name", SPEC.menu)
def test_restoring_undoes_an_action_bit_for_bit(population: Population, name: str) -> None:
    step(population, "keep")
    prepare(population, name)
    assert population.mask(0)[SPEC.menu.index(name)], "not allowed after its preparation"
    before = population.snapshot(0)
    go_on(population, "keep")
    kept = population.snapshot(0)

    population.restore(0, before)
    assert_same(population.snapshot(0), before)
    go_on(population, name)
    acted = population.snapshot(0)
    assert (not difference(acted.row.tensors, kept.row.tensors)) == (name == "keep")

    population.restore(0, before)
    assert_same(population.snapshot(0), before)
    go_on(population, "keep")
    assert_same(population.snapshot(0), kept)

    # The same action again gives the same again, also in another population.
    other = Population(SPEC, 1, executor=population.executor)
    other.reset({0: before.episode.instance})
    other.restore(0, before)
    go_on(other, name)
    again = other.snapshot(0)
    assert not difference(again.row.tensors, acted.row.tensors)
    assert again.row.state.spent == acted.row.state.spent


def test_rolling_back_halves_the_rate_each_time_and_gives_no_budget_back(population: Population) -> None:
    step(population, "keep")
    run = population.run_of(0)
    best = run.relative_rate(0)
    for halvings in (1, 2):
        run.rows[0].own_full().values.mul_(3)
        step(population, "keep")
        assert run.states[0].loss > run.states[0].best_loss
        spent = run.states[0].spent
        SPEC.actions[SPEC.menu.index("rollback")].apply(run, 0)
        assert torch.equal(run.rows[0].weights, run.rows[0].best_weights)
        assert run.relative_rate(0) == pytest.approx(best / 2**halvings)
        assert run.states[0].spent == spent


def test_a_rate_set_by_a_schedule_is_not_on_the_menu(instance: Instance) -> None:
    population = Population(SPEC, 1)
    population.reset({0: instance}, {0: lambda spent: 1.0})
    allowed = {name for name, ok in zip(SPEC.menu, population.mask(0)) if ok}
    assert not any(name.startswith("rate_") for name in allowed) and "source_1" in allowed


def test_what_would_change_nothing_is_not_allowed(population: Population) -> None:
    def allowed() -> set[str]:
        return {name for name, ok in zip(SPEC.menu, population.mask(0)) if ok}

    start = allowed()
    assert "keep" in start
    nothing = {"source_uniform", "augment_off", "distil_off", "adapter_full", "adapter_merge", "adapter_rank_up"}
    assert not start & (nothing | {"rollback", "load_averaged"})
    step(population, "adapter_lora")
    assert {"adapter_full", "adapter_merge", "adapter_rank_up"} <= allowed() and "adapter_lora" not in allowed()
    step(population, "adapter_rank_up")
    assert "adapter_rank_up" not in allowed() and "load_averaged" in allowed()
    for _ in range(3):
        step(population, "regularise_more")
    assert "regularise_more" not in allowed() and "regularise_less" in allowed()
