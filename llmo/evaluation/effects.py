"""What each action is worth at one moment of a run: branches by snapshot, against keeping on, at equal cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmo import catalog
from llmo.catalog.tuned import tuned_parameters
from llmo.diagnostics.causes import diagnose
from llmo.evaluation.statistics import Bootstrap
from llmo.mdp.population import Population, Snapshot
from llmo.mdp.reference import Curve
from llmo.mdp.spec import EnvSpec, env_spec

PHASES = ("early", "middle", "late")
MOMENTS = (0.08, 0.4, 0.75)
"""Share of the budget from which a run is branched, in each phase."""
HORIZONS = {"1": 1, "3": 3, "all": 10**6}
"""Environment steps after which branches are compared, by name."""
TOGETHER = 16
"""Branches in one population."""
FEWEST = 5
"""Instances that a mean needs moments of, at least."""


@dataclass(frozen=True)
class Effect:
    """What one action was worth once.

    Attributes:
        instance: Index of the instance.
        base: Name of the agent that had played until then.
        phase: One of `PHASES`.
        cause: What `diagnose` had named.
        action: Its name.
        gains: By horizon, in percent of the best validation loss: by how much it lies below that of keeping on, after
            as many FLOPs.
    """

    instance: int
    base: str
    phase: str
    cause: str
    action: str
    gains: dict[str, float]


def branch(
    env: str,
    split: str,
    index: int,
    base: str,
    executor: str | None = None,
    actions: Sequence[str] = (),
    before: Sequence[str] = (),
) -> list[Effect]:
    """Branch one run in each phase.

    Args:
        env: Registered name of the environment.
        split: ``train``, ``dev`` or ``test``.
        index: Of the instance.
        base: Name of the rule that plays until a branch.
        executor: Of the population; None chooses.
        actions: Names of those that are tried, besides `keep`; all where there is none.
        before: Names of actions that the run takes first, one a step; where it cannot, it is not branched.
    """
    spec = env_spec(env)
    population = Population(spec, TOGETHER, executor=executor)
    effects = []
    for phase, moment in _moments(population, spec, split, index, base).items():
        population.restore(0, moment)
        if not _takes(population, before):
            continue
        moment = population.snapshot(0)
        cause, _ = diagnose(population.observe(0))
        wanted = {"keep", *(actions or spec.menu)}
        allowed = [int(action) for action in np.flatnonzero(population.mask(0)) if spec.menu[action] in wanted]
        curves = _curves(population, moment, allowed)
        keep = curves[spec.menu.index("keep")]
        for action, curve in curves.items():
            gains = {name: _gain(curve, keep, steps) for name, steps in HORIZONS.items()}
            effects.append(Effect(index, base, phase, cause, spec.menu[action], gains))
    return effects


def _moments(population: Population, spec: EnvSpec, split: str, index: int, base: str) -> dict[str, Snapshot]:
    """A snapshot in each phase of a run."""
    instance = spec.draw(split, index, 1.0)
    agent = catalog.make_agent(base, **tuned_parameters(base, spec.name))
    agent.bind(spec.space)
    agent.reset([index])
    population.reset({0: instance}, {0: agent.schedules([instance.start])[0]})
    found: dict[str, Snapshot] = {}
    start = True
    while not population.episode(0).ended:
        spent = population.episode(0).history.last.spent
        for phase, moment in zip(PHASES, MOMENTS, strict=True):
            if spent >= moment and phase not in found:
                found[phase] = population.snapshot(0)
        observation, mask = population.observe(0)[None], population.mask(0)[None]
        population.step({0: agent.act(observation, mask, np.array([start]))[0]})
        start = False
    return found


def _takes(population: Population, actions: Sequence[str]) -> bool:
    """Let the first run take some actions; whether it could and goes on."""
    for name in actions:
        action = population.spec.menu.index(name)
        if not population.mask(0)[action] or population.step({0: action})[0].terminated:
            return False
    return True


def _curves(population: Population, moment: Snapshot, actions: Sequence[int]) -> dict[int, Curve]:
    """How the best validation loss goes on after each action, and keeping on behind it."""
    keep = population.spec.menu.index("keep")
    curves: dict[int, Curve] = {}
    for first in range(0, len(actions), population.replicas):
        part = actions[first : first + population.replicas]
        begun = len(moment.episode.history.measurements) - 1
        for slot in range(len(part)):
            population.restore(slot, moment)
        going, chosen = list(range(len(part))), dict(enumerate(part))
        while going:
            steps = population.step({slot: chosen.get(slot, keep) for slot in going})
            chosen = {}
            going = [slot for slot in going if not steps[slot].terminated]
        for slot, action in enumerate(part):
            curves[action] = Curve.of(population.episode(slot).history.measurements[begun:])
    return curves


def _gain(curve: Curve, keep: Curve, steps: int) -> float:
    """By how much a curve lies below that of keeping on after some steps, in percent."""
    if steps >= len(curve.losses):
        return 100 * (keep.losses[-1] - curve.losses[-1])
    return 100 * (keep.at(curve.spent[steps]) - curve.losses[steps])


def summary(effects: Sequence[Effect]) -> dict[str, Any]:
    """Mean gains with 95% intervals, over all moments, by cause and by phase; instances are resampled.

    Returns:
        By horizon, then by group (``all``, a cause, or a phase), then by action: `mean`, `low`, `high` and `moments`.
    """
    found: dict[str, Any] = {horizon: defaultdict(dict) for horizon in HORIZONS}
    groups: dict[tuple[str, str], list[Effect]] = defaultdict(list)
    for effect in effects:
        for group in ("all", effect.cause, effect.phase):
            groups[group, effect.action].append(effect)
    for (group, action), part in sorted(groups.items()):
        if len({effect.instance for effect in part}) < FEWEST:
            continue
        bootstrap = Bootstrap([str(effect.instance) for effect in part])
        for horizon in HORIZONS:
            values = np.array([effect.gains[horizon] for effect in part])
            low, high = bootstrap.interval(values[None], _resampled_mean)
            row = {"mean": float(values.mean()), "low": low, "high": high, "moments": len(part)}
            found[horizon][group][action] = row
    return {horizon: dict(groups) for horizon, groups in found.items()}


def _resampled_mean(values: Any, counts: Any) -> Any:
    return (counts * values).sum(axis=1) / counts.sum(axis=1)


def plain(effect: Effect) -> dict[str, Any]:
    """An effect as JSON has it."""
    return {**vars(effect), "gains": {name: round(gain, 4) for name, gain in effect.gains.items()}}
