"""What a teacher did on train instances, which a policy imitates, and how far it got, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo import catalog
from llmo.agent import Agent, LearningAgent
from llmo.catalog.tuned import tuned_parameters
from llmo.errors import LlmoError
from llmo.evaluation.progress import Progress
from llmo.evaluation.result import tuned_job
from llmo.evaluation.rollout import chunks
from llmo.evaluation.spread import spread
from llmo.evaluation.workers import Workers
from llmo.mdp.population import Population
from llmo.mdp.reference import Curve
from llmo.mdp.spec import env_spec

VARIED = 0.5
"""Chance of each of a teacher's parameters to have another value than the tuned one."""


@dataclass(frozen=True)
class Demonstrations:
    """M moves of a teacher.

    Attributes:
        observations: [M, F].
        masks: Which actions were allowed, [M, A].
        actions: What was done, [M].
        starts: Which moves are an episode's first, [M].
        curves: How far the teacher got, by index of the instance.
    """

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    starts: NDArray[np.bool_]
    curves: dict[int, Curve]


def demonstrate(
    env: str, teacher: str, indices: Sequence[int], workers: Workers, replicas: int = 64, executor: str = "batched"
) -> Demonstrations:
    """Let a teacher play train instances, with its tuned values and others: see `practised`.

    Args:
        env: Registered name of the environment.
        teacher: Registered name of the agent that is imitated; it plays the menu and sets no schedule.
        indices: The train instances, in rising order.
        workers: Who plays.
        replicas: Episodes played together.
        executor: ``batched`` or ``compiled``.

    Raises:
        LlmoError: The teacher looks ahead or sets a schedule, which no policy can imitate.
    """
    valid_teacher(teacher)
    jobs = [tuned_job(env, "train", index, teacher) for index in indices]
    groups = [[job.index for job in group] for group in chunks(jobs, replicas)]
    played: dict[int, Demonstrations] = {}
    with Progress(f"demonstrations of {teacher}, in episodes", len(indices)) as progress:
        for number, parts in spread(_play, [(env, teacher, group, executor) for group in groups], workers):
            played |= dict(zip(groups[number], parts, strict=True))
            progress.advance(len(parts))
    ordered = [played[index] for index in indices]
    arrays = ("observations", "masks", "actions", "starts")
    moves = {name: np.concatenate([getattr(part, name) for part in ordered]) for name in arrays}
    return Demonstrations(**moves, curves={index: played[index].curves[index] for index in indices})


def practised(teacher: str, env: str, index: int) -> dict[str, Any]:
    """The teacher's parameters on one instance: tuned ones, every other one replaced by any of its grid.

    A tuned teacher may never take an action that is good at some times, such as to decay the rate; who imitates only
    that would hardly come to try it. Its rates stay what they are.

    Args:
        teacher: Registered name of the agent.
        env: Registered name of the environment.
        index: Of the instance.
    """
    random = np.random.default_rng(index)
    grid, parameters = catalog.get("agents", teacher).grid, tuned_parameters(teacher, env)
    for name in sorted(grid.keys() - {"scratch", "pretrained"}):
        if random.random() < VARIED:
            parameters = {**parameters, name: grid[name][random.integers(len(grid[name]))]}
    return parameters


def valid_teacher(name: str) -> None:
    """Check that an agent can be imitated.

    Raises:
        LlmoError: There is no such agent, or it does not play by the menu alone.
    """
    agent: Agent = catalog.make_agent(name)
    if agent.search or isinstance(agent, LearningAgent) or agent.schedules(["scratch"]) != [None]:
        raise LlmoError("teacher", name, "a rule that plays by the menu alone, such as scripted")


def _play(env: str, teacher: str, indices: Sequence[int], executor: str) -> list[Demonstrations]:
    """The episodes of some instances, each by itself."""
    spec = env_spec(env)
    population = Population(spec, len(indices), executor=executor)
    agents: list[Agent] = [catalog.make_agent(teacher, **practised(teacher, env, index)) for index in indices]
    for agent, index in zip(agents, indices, strict=True):
        agent.bind(spec.space)
        agent.reset([index])
    population.reset({slot: spec.draw("train", index, 1.0) for slot, index in enumerate(indices)})
    moves: list[list[tuple[NDArray[np.float32], NDArray[np.bool_], int]]] = [[] for _ in indices]
    going = list(range(len(indices)))
    while going:
        seen = {slot: (population.observe(slot), population.mask(slot)) for slot in going}
        chosen = {
            slot: int(agents[slot].act(observation[None], mask[None], np.array([not moves[slot]]))[0])
            for slot, (observation, mask) in seen.items()
        }
        steps = population.step(chosen)
        for slot in going:
            moves[slot].append((*seen[slot], chosen[slot]))
        going = [slot for slot in going if not steps[slot].terminated]
    return [
        Demonstrations(
            observations=np.stack([move[0] for move in moves[slot]]),
            masks=np.stack([move[1] for move in moves[slot]]),
            actions=np.array([move[2] for move in moves[slot]], np.int64),
            starts=np.arange(len(moves[slot])) == 0,
            curves={index: Curve.of(population.episode(slot).history.measurements)},
        )
        for slot, index in enumerate(indices)
    ]
