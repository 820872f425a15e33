"""What an action must obey: it does something where it is allowed, to its own run only, and can be undone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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

LONGEST, WALKS = 40, 2
"""Steps of a walk through a run's states: at most so many, or for a long menu as many as it has actions; and how many
walks there are, as some actions close others for good. On them an action must be allowed somewhere."""
INTERVAL = 2
"""Optimizer steps between two states: what an action does shows in the first."""
LAST = ("prune_more", "quantise_int8")
"""Taken when all else has been: nothing undoes them, and they close what trains all weights or brings parts back."""
LOOKED_AT = 64
"""Train instances that a kind of run is looked for among."""
MOST_KINDS = 10
"""More kinds of run than there are."""


@dataclass(frozen=True)
class Place:
    """A kind of run.

    Attributes:
        env: Registered name of an environment.
        task: What its runs learn.
        rare: Whether it is only looked at where nothing else fits.
    """

    env: str
    task: str
    rare: bool = False

    def __str__(self) -> str:
        return f"{self.env} ({self.task})"


@dataclass(frozen=True)
class Walk:
    """States that a run can be in, from fresh to trained.

    Attributes:
        population: Two slots with models of one shape.
        moments: Of the first slot: before each step of walks that take every action of the menu as soon as they can,
            what has just become allowed first, until each has been allowed.
    """

    population: Population
    moments: tuple[Snapshot, ...]


def check_action(name: str, findings: Findings, kinds: int = MOST_KINDS) -> None:
    """Check an action by its registered name, on each kind of run whose menu has it.

    Args:
        name: Of the action.
        findings: Where the lines go.
        kinds: On how many kinds of run on which it is allowed somewhere, at most.
    """
    action: Action | None = None
    with findings.that("is an Action, made without arguments"):
        made = catalog.get("actions", name)()
        require(isinstance(made, Action), f"it is a {type(made).__name__}")
        action = made
    if action is None:
        return
    places, allowed = _places_with(name), 0
    for place in places:
        if allowed and place.rare:
            break
        here: Snapshot | None = None
        with findings.that(f"in {place}: asking whether it is allowed changes nothing"):
            here = _allowed_somewhere(action, states(place))
        if here is not None and allowed < kinds:
            allowed += 1
            _check_in(place, name, action, here, findings)
        if allowed == kinds:
            break
    with findings.that("it is allowed somewhere"):
        require(allowed > 0, f"it is allowed in no state of runs in {', '.join(map(str, places))}")


def _places_with(name: str) -> list[Place]:
    """One place for each kind of run: by what is learned, and whether whole models are trained or a base is frozen.

    The default environment comes first, also where nobody has the action, then those with the longest menus.
    """
    catalog.load("envs")
    specs = [env_spec(env) for env in catalog.KINDS["envs"].names()]
    specs.sort(key=lambda spec: (spec.name != DEFAULT_ENV, -len(spec.menu)))
    kinds: dict[tuple[bool, str], Place] = {}
    for spec in specs:
        if name in spec.menu:
            for instance in (spec.draw("train", index, 1.0) for index in range(LOOKED_AT)):
                kind = bool(spec.frozen_base(instance)), instance.task
                kinds.setdefault(kind, Place(spec.name, instance.task))
    found = list(kinds.values()) or [Place(specs[0].name, specs[0].draw("train", 0, 1.0).task)]
    # What only some environments can show, such as data that shift, is in theirs.
    others = [spec for spec in specs if name in spec.menu and spec.name not in {place.env for place in found}]
    return found + [Place(spec.name, spec.draw("train", 0, 1.0).task, rare=True) for spec in others]


def _check_in(place: Place, name: str, action: Action, here: Snapshot, findings: Findings) -> None:
    walk = states(place)
    with findings.that(f"in {place}: it changes its own run only, which trains on at a price"):
        _applies(name, action, walk.population, here)
    with findings.that(f"in {place}: restoring undoes it bit for bit"):
        _undone(action, walk.population, here)


@lru_cache(maxsize=MOST_KINDS)
def states(place: Place) -> Walk:
    """A walk through the states of a run, the same for every action on a kind of run."""
    spec = env_spec(place.env)
    population = Population(spec, 2, executor="batched")
    longest = max(LONGEST, len(spec.menu))
    instance = _rich(spec, place.task)
    population.reset({0: instance})
    run = population.run_of(0)
    price = INTERVAL * run.step_cost(0) + run.evaluation_cost(0)
    # Many actions make a step dearer.
    instance = replace(instance, interval=INTERVAL, budget=2 * longest * price)
    moments: list[Snapshot] = []
    for seed in range(WALKS):
        population.reset({0: instance, 1: instance})
        moments += _walk(population, longest, seed)
    return Walk(population, tuple(moments))


def _walk(population: Population, longest: int, seed: int) -> list[Snapshot]:
    """The states of the first slot on one way through them."""
    untaken, choose = np.ones(len(population.spec.menu), bool), np.random.default_rng(seed)
    moments: list[Snapshot] = []
    ever, before = np.zeros((2, len(untaken)), bool)
    sooner = np.array([name not in LAST for name in population.spec.menu])
    while len(moments) < longest and not population.episode(0).ended and not ever.all():
        moments.append(population.snapshot(0))
        mask = population.mask(0)
        ever |= mask
        new = untaken & mask
        # What was masked a step before may be masked a step later.
        likeliest = next(some for some in (new & sooner & ~before, new & sooner, new, mask) if some.any())
        action, before = int(choose.choice(np.flatnonzero(likeliest))), mask
        untaken[action] = False
        population.step({0: action})
    return moments


def _rich(spec: EnvSpec, task: str) -> Instance:
    """Of some train instances of a task, the one that offers most; of those alike the cheapest.

    It has nothing closed or hidden, a teacher, dirt in its data, room in its adapter, if any.
    """
    found = [spec.draw("train", index, 1.0) for index in range(LOOKED_AT)]
    fitting = [instance for instance in found if instance.task == task] or found
    return min(fitting, key=_offers)


def _offers(instance: Instance) -> tuple[float, ...]:
    missing = len(set(instance.closed) - {"source"}), len(set(instance.neutral) - {"sources"})
    dirty = instance.repeated > 0 and instance.broken > 0
    return (*missing, not instance.teacher, not dirty, instance.rank, instance.budget)


def _allowed_somewhere(action: Action, walk: Walk) -> Snapshot | None:
    population = walk.population
    for moment in (walk.moments[0], *walk.moments[::-1]):
        population.restore(0, moment)
        run = population.run_of(0)
        allowed = action.allowed(run, 0)
        require(isinstance(allowed, bool | np.bool_), f"the answer is {allowed!r}")
        require_same(difference(moment, population.snapshot(0), "state"))
        if allowed:
            return moment
    return None


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
