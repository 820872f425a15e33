"""What a teacher did on train instances, which a policy imitates, and how far it got, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    env: str,
    teacher: str,
    indices: Sequence[int],
    workers: Workers,
    replicas: int = 64,
    executor: str = "batched",
    policy: str = "",
) -> Demonstrations:
    """Let a teacher play train instances.

    Args:
        env: Registered name of the environment.
        teacher: Registered name of the agent that is imitated, with its tuned values; it plays the menu and sets no
            schedule.
        indices: The train instances, in rising order.
        workers: Who plays.
        replicas: Episodes played together.
        executor: ``batched`` or ``compiled``.
        policy: Folder of a policy that the teacher plays, if it is one that has learned.

    Raises:
        LlmoError: The teacher looks ahead or sets a schedule, which no policy can imitate.
    """
    if not policy:
        valid_teacher(teacher)
    jobs = [tuned_job(env, "train", index, teacher) for index in indices]
    groups = [[job.index for job in group] for group in chunks(jobs, replicas)]
    played: dict[int, Demonstrations] = {}
    with Progress(f"demonstrations of {teacher}, in episodes", len(indices)) as progress:
        for number, parts in spread(_play, [(env, teacher, group, executor, policy) for group in groups], workers):
            played |= dict(zip(groups[number], parts, strict=True))
            progress.advance(len(parts))
    ordered = [played[index] for index in indices]
    arrays = ("observations", "masks", "actions", "starts")
    moves = {name: np.concatenate([getattr(part, name) for part in ordered]) for name in arrays}
    return Demonstrations(**moves, curves={index: played[index].curves[index] for index in indices})


def valid_teacher(name: str) -> None:
    """Check that an agent can be imitated.

    Raises:
        LlmoError: There is no such agent, or it does not play by the menu alone.
    """
    agent: Agent = catalog.make_agent(name)
    if agent.search or isinstance(agent, LearningAgent) or not agent.menu_alone:
        raise LlmoError("teacher", name, "a rule that plays by the menu alone, such as scripted")


def _play(env: str, teacher: str, indices: Sequence[int], executor: str, policy: str) -> list[Demonstrations]:
    """The episodes of some instances, each by itself."""
    spec = env_spec(env)
    population = Population(spec, len(indices), executor=executor)
    given = {"policy": policy} if policy else tuned_parameters(teacher, env)
    agent: Agent = catalog.make_agent(teacher, **given)
    agent.bind(spec.space)
    agent.reset(list(indices))
    population.reset({slot: spec.draw("train", index, 1.0) for slot, index in enumerate(indices)})
    moves: list[list[tuple[NDArray[np.float32], NDArray[np.bool_], int]]] = [[] for _ in indices]
    going = list(range(len(indices)))
    while going:
        observations = np.stack([population.observe(slot) for slot in range(len(indices))])
        masks = np.stack([population.mask(slot) for slot in range(len(indices))])
        chosen = agent.act(observations, masks, np.array([not made for made in moves]))
        steps = population.step({slot: int(chosen[slot]) for slot in going})
        for slot in going:
            moves[slot].append((observations[slot], masks[slot], int(chosen[slot])))
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
