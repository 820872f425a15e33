"""What an action must obey: it does something where it is allowed, to its own run only, and can be undone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from llmo import catalog
from llmo.actions.action import Action
from llmo.catalog.tuned import DEFAULT_ENV
from llmo.engine.run import Run
from llmo.evaluation.compare import difference
from llmo.evaluation.findings import Findings, require, require_same
from llmo.mdp.instances import Instance
from llmo.mdp.population import Population, Snapshot
from llmo.mdp.spec import EnvSpec, env_spec

LONGEST = 40, 2
"""Steps of the walk through a run's states, on which an action must be allowed somewhere: at most so many, or for a
long menu so many for each action."""
BUDGETS = 14
"""Steps that an instance's budget pays for at least."""


@dataclass(frozen=True)
class Walk:
    """States that a run can be in, from fresh to trained.

    Attributes:
        population: Two slots with models of one shape.
        moments: Of the first slot: before each step of a walk that takes every action of the menu as soon as it can,
            until each has been allowed.
    """

    population: Population
    moments: tuple[Snapshot, ...]


def check_action(name: str, findings: Findings) -> None:
    """Check an action by its registered name, in an environment of each kind that has it on its menu."""
    action: Action | None = None
    with findings.that("is an Action, made without arguments"):
        made = catalog.get("actions", name)()
        require(isinstance(made, Action), f"it is a {type(made).__name__}")
        action = made
    if action is None:
        return
    for env in _environments_with(name):
        _check_in(env, name, action, findings)


def _environments_with(name: str) -> list[str]:
    """An environment of runs that train whole models and one of runs on a frozen base that have an action on the menu.

    The default one comes first, also where nobody has it.
    """
    catalog.load("envs")
    specs = [env_spec(env) for env in catalog.KINDS["envs"].names()]
    specs.sort(key=lambda spec: (spec.name != DEFAULT_ENV, -len(spec.menu)))
    kinds: dict[bool, str] = {}
    for spec in specs:
        if name in spec.menu:
            kinds.setdefault(bool(spec.frozen_base(spec.draw("train", 0, 1.0))), spec.name)
    return list(kinds.values()) or [specs[0].name]


def _check_in(env: str, name: str, action: Action, findings: Findings) -> None:
    walk = states(env)
    here: Snapshot | None = None
    with findings.that(f"in {env}: asking whether it is allowed changes nothing, and somewhere it is"):
        here = _allowed_somewhere(action, walk)
    if here is None:
        return
    with findings.that(f"in {env}: it changes its own run only, which trains on at a price"):
        _applies(name, action, walk.population, here)
    with findings.that(f"in {env}: restoring undoes it bit for bit"):
        _undone(action, walk.population, here)


@lru_cache(maxsize=4)
def states(env: str) -> Walk:
    """A walk through the states of a run, the same for every action of an environment."""
    spec = env_spec(env)
    population = Population(spec, 2, executor="batched")
    longest = max(LONGEST[0], LONGEST[1] * len(spec.menu))
    instance = _with_a_teacher(spec, longest / BUDGETS)
    population.reset({0: instance, 1: instance})
    untaken, choose = set(range(len(spec.menu))), np.random.default_rng(0)
    moments: list[Snapshot] = []
    ever = np.zeros(len(spec.menu), bool)
    while len(moments) < longest and not population.episode(0).ended and not ever.all():
        moments.append(population.snapshot(0))
        mask = population.mask(0)
        ever |= mask
        allowed = np.flatnonzero(mask)
        new = [action for action in allowed if action in untaken]
        action = int(choose.choice(new or allowed))
        untaken.discard(action)
        population.step({0: action})
    return Walk(population, tuple(moments))


def _with_a_teacher(spec: EnvSpec, budget_scale: float) -> Instance:
    """The cheapest of some train instances on which nothing is closed, with room in its adapter, if it starts with one.

    It has a budget for the walk.
    """
    found = [spec.draw("train", index, budget_scale) for index in range(64)]
    whole = [instance for instance in found if not (instance.closed or instance.neutral)] or found
    taught = [instance for instance in whole if instance.teacher] or whole
    return min(taught, key=lambda instance: (instance.rank, instance.budget))


def _allowed_somewhere(action: Action, walk: Walk) -> Snapshot:
    population, found = walk.population, None
    for moment in (walk.moments[0], *walk.moments[::-1]):
        population.restore(0, moment)
        run = population.run_of(0)
        allowed = action.allowed(run, 0)
        require(isinstance(allowed, bool | np.bool_), f"the answer is {allowed!r}")
        require_same(difference(moment, population.snapshot(0), "state"))
        if allowed:
            found = moment
            break
    require(found is not None, f"it is allowed in none of {len(walk.moments)} states of a run")
    assert found is not None
    return found


def _applies(name: str, action: Action, population: Population, here: Snapshot) -> None:
    """One slot takes the action, its twin does not; afterwards both train on, and once more without the action."""
    run = _twins(population, here)
    action.apply(run, 0)
    changed = difference(here.row, run.snapshot(0), "run")
    require(bool(changed) != (name == "keep"), changed or "it changes nothing where it is allowed")
    require_same(difference(here.row, run.snapshot(1), "the other run"))
    spent = run.states[0].spent
    require(spent >= here.row.state.spent, f"it gives budget back: {here.row.state.spent:.3g} FLOPs, now {spent:.3g}")
    run.train([0, 1])
    taken, beside = run.evaluate([0, 1])
    require(taken.diverged or math.isfinite(taken.validation_loss), f"the loss is {taken.validation_loss}")
    require(taken.cost > 0 and run.states[0].spent > spent, "training on costs nothing")
    run = _twins(population, here)
    run.train([0, 1])
    twins = run.evaluate([0, 1])
    require_same(difference(twins[1], beside, "the other run after training"))
    require_same(difference(twins[0], twins[1], "the twin after training"))


def _undone(action: Action, population: Population, here: Snapshot) -> None:
    run = _twins(population, here)
    action.apply(run, 0)
    run.train([0])
    run.evaluate([0])
    population.restore(0, here)
    require_same(difference(here, population.snapshot(0), "state"))
    run.train([0, 1])
    restored, never = run.evaluate([0, 1])
    require_same(difference(never, restored, "continued"))


def _twins(population: Population, here: Snapshot) -> Run:
    for slot in (0, 1):
        population.restore(slot, here)
    return population.run_of(0)
