"""Searches the parameters of hand rules, one after another, each by climbing its grid, or all of them by Optuna.

A climb searches the peak rates first, apart for scratch and pre-trained starts, then what shapes the schedule, then the
peaks once more. The score on an instance is 100 log(best validation loss of the constant default rate / the rule's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmo.evaluation.result import Job
from llmo.evaluation.statistics import Bootstrap, iqm

STARTS = ("scratch", "pretrained")
"""Parameters that are read on instances of this start only."""
BASE = ("constant", {"pretrained": 1.0, "scratch": 1.0})
"""What scores are relative to: the default rate, unchanged."""

Grid = Mapping[str, Sequence[Any]]
Parameters = dict[str, Any]
Losses = Mapping[Job, float]
"""Best validation loss of each job, nats per token."""
Search = Generator[list[Job], Losses, Parameters]
"""Gives the jobs whose losses it needs next, is sent a mapping that has them, and returns the best parameters."""


@dataclass(frozen=True)
class Instances:
    """What rules are tuned on.

    Attributes:
        env: Registered name of the environment.
        starts: ``scratch`` or ``pretrained``, by index of the instance.
        groups: Text group, by index.
    """

    env: str
    starts: Mapping[int, str]
    groups: Mapping[int, str]

    def of(self, parameter: str) -> list[int]:
        """The instances on which a parameter is read."""
        return [index for index, start in self.starts.items() if parameter not in STARTS or start == parameter]

    def job(self, agent: str, parameters: Mapping[str, Any], index: int) -> Job:
        """A rule on an instance; the peak of the other start, which is not read there, is made the same."""
        peak = parameters.get(self.starts[index])
        own = {} if peak is None else {start: peak for start in STARTS if start in parameters}
        return Job(self.env, "train", index, agent, tuple(sorted({**parameters, **own}.items())))

    def score(self, losses: Losses, agent: str, parameters: Mapping[str, Any], indices: Sequence[int]) -> list[float]:
        """Percent by which a rule is better than the base, on each of some instances."""
        return [
            100 * math.log(losses[self.job(*BASE, index)] / losses[self.job(agent, parameters, index)])
            for index in indices
        ]


@dataclass
class Climb:
    """A search along the grid of one parameter, up to a value whose neighbours are no better.

    Attributes:
        values: The grid.
        best: Place of the best value so far; before any was tried, where to begin.
        scores: Scores of the values tried, by place.
    """

    values: Sequence[Any]
    best: int
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def wanted(self) -> list[int]:
        """Places to try next; none when the search is over."""
        near = range(max(0, self.best - 1), min(len(self.values), self.best + 2))
        return [place for place in near if place not in self.scores]

    def learn(self, scores: Mapping[int, float]) -> None:
        """Take the scores of some places."""
        self.scores.update(scores)
        self.best = max(self.scores, key=lambda place: self.scores[place])


def search(agent: str, grid: Grid, start: Mapping[str, Any], instances: Instances) -> Search:
    """Search the parameters of one rule.

    Args:
        agent: Its registered name.
        grid: Values of each parameter.
        start: Where the search begins; each value is in its grid.
        instances: What to play.
    """
    chosen = dict(start)
    peaks = [name for name in grid if name in STARTS and instances.of(name)]
    shapes = [[name] for name in grid if name not in STARTS]
    for stage in filter(None, [peaks, *shapes, peaks if shapes else []]):
        climbs = {name: Climb(grid[name], list(grid[name]).index(chosen[name])) for name in stage}
        while any(climb.wanted for climb in climbs.values()):
            tried = {
                (name, place): {**chosen, name: climb.values[place]}
                for name, climb in climbs.items()
                for place in climb.wanted
            }
            jobs = [instances.job(*BASE, index) for index in instances.starts]
            jobs += [instances.job(agent, tried[key], index) for key in tried for index in instances.of(key[0])]
            losses = yield jobs
            for name, climb in climbs.items():
                indices = instances.of(name)
                scores = {place: instances.score(losses, agent, tried[name, place], indices) for place in climb.wanted}
                climb.learn({place: iqm(np.array(values)) for place, values in scores.items()})
        chosen |= {name: climb.values[climb.best] for name, climb in climbs.items()}
    # Where no parameter is read nothing was played: pre-trained starts of a rule whose only parameter is `scratch`.
    yield [instances.job(agent, chosen, index) for index in instances.starts]
    return chosen


TOGETHER = 8
"""Settings that Optuna draws before it is told how good they are."""


def search_jointly(agent: str, grid: Grid, start: Mapping[str, Any], instances: Instances, trials: int) -> Search:
    """Search all parameters of one rule together, by the tree-structured Parzen estimator (Bergstra et al. 2011).

    Args:
        agent: Its registered name.
        grid: Values of each parameter.
        start: The first setting to be tried.
        instances: What to play.
        trials: How many settings are drawn.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial({name: _drawn(values, start[name]) for name, values in grid.items()})
    best: tuple[float, Parameters] = (-math.inf, {})
    for first in range(0, trials, TOGETHER):
        drawn = [study.ask() for _ in range(min(TOGETHER, trials - first))]
        tried = [{name: _suggested(trial, name, values) for name, values in grid.items()} for trial in drawn]
        jobs = [instances.job(*BASE, index) for index in instances.starts]
        jobs += [instances.job(agent, parameters, index) for parameters in tried for index in instances.starts]
        losses = yield jobs
        for trial, parameters in zip(drawn, tried, strict=True):
            score = iqm(np.array(instances.score(losses, agent, parameters, list(instances.starts))))
            study.tell(trial, score)
            best = max(best, (score, parameters), key=lambda one: one[0])
    return best[1]


def _ordered(values: Sequence[Any]) -> bool:
    return not any(isinstance(value, str) for value in values)


def _drawn(values: Sequence[Any], value: Any) -> Any:
    """A value as Optuna has it: numbers by their place, so that it knows who is near to whom."""
    return values.index(value) if _ordered(values) else value


def _suggested(trial: Any, name: str, values: Sequence[Any]) -> Any:
    if _ordered(values):
        return values[trial.suggest_int(name, 0, len(values) - 1)]
    return trial.suggest_categorical(name, values)


def search_all(
    searches: Mapping[str, Search], play: Callable[[list[Job]], Losses]
) -> tuple[dict[str, Parameters], dict[Job, float]]:
    """Run searches side by side, so that what they need is played together.

    Args:
        searches: By name of the rule.
        play: Plays jobs and gives their losses; asked only once for each job.

    Returns:
        The best parameters by rule, and the losses of all jobs.
    """
    losses: dict[Job, float] = {}
    found: dict[str, Parameters] = {}
    needed = {name: next(one) for name, one in searches.items()}
    while needed:
        jobs = dict.fromkeys(job for asked in needed.values() for job in asked)
        new = [job for job in jobs if job not in losses]
        if new:
            losses.update(play(new))
        going = list(needed)
        needed = {}
        for name in going:
            try:
                needed[name] = searches[name].send(losses)
            except StopIteration as stop:
                found[name] = stop.value
    return {name: found[name] for name in searches}, losses


def at_edge(grid: Grid, parameters: Mapping[str, Any]) -> list[str]:
    """Parameters whose value is the first or the last of its grid; 0 and 1 are ends that a grid cannot pass."""
    ends = {name: (values[0], values[-1]) for name, values in grid.items()}
    numbers = {name: value for name, value in parameters.items() if not isinstance(value, str)}
    return [name for name, value in numbers.items() if value in ends[name] and value not in (0, 1)]


def summary(agent: str, grid: Grid, parameters: Parameters, instances: Instances, losses: Losses) -> dict[str, Any]:
    """What is known about one tuned rule: its parameters, those at an edge of the grid, and its score in percent."""
    indices = list(instances.starts)
    values = np.array(instances.score(losses, agent, parameters, indices))
    low, high = Bootstrap([instances.groups[index] for index in indices]).interval(values[None])
    score = {"iqm": iqm(values), "low": low, "high": high, "mean": float(values.mean())}
    for start in STARTS:
        part = instances.score(losses, agent, parameters, instances.of(start))
        if part:
            score[start] = iqm(np.array(part))
    return {"parameters": parameters, "score": score, "at_edge": at_edge(grid, parameters)}
