"""What a scripted teacher did, move by move: material for a policy to imitate before it learns on its own."""

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
from llmo.evaluation.spread import spread
from llmo.evaluation.workers import Workers
from llmo.mdp.population import Population
from llmo.mdp.spec import env_spec


@dataclass(frozen=True)
class Demonstrations:
    """M moves.

    Attributes:
        observations: [M, F].
        masks: Which actions were allowed, [M, A].
        actions: What was done, [M].
        returns: Sum of the rewards from the move on, undiscounted, [M].
        totals: Whole return of each episode, by instance, in the order played.
    """

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    returns: NDArray[np.float32]
    totals: NDArray[np.float32]


def demonstrate(
    env: str, teacher: str, indices: Sequence[int], random_share: float, seed: int, workers: Workers, replicas: int = 32
) -> Demonstrations:
    """Let a teacher play train instances.

    Args:
        env: Registered name of the environment.
        teacher: Registered name of the agent that is imitated, with its tuned values; it plays the menu and sets no
            schedule.
        indices: The train instances.
        random_share: Share of the moves that are random instead, so that every action of the menu is seen, 0 to 1.
        seed: Of those.
        workers: Who plays.
        replicas: Episodes played together.

    Raises:
        LlmoError: The teacher looks ahead or sets a schedule, which no policy can imitate.
    """
    valid_teacher(teacher)
    groups = [list(indices[first : first + replicas]) for first in range(0, len(indices), replicas)]
    parts: dict[int, Demonstrations] = {}
    with Progress(f"demonstrations of {teacher}, in episodes", len(indices)) as progress:
        for place, part in spread(_play, [(env, teacher, group, random_share, seed) for group in groups], workers):
            parts[place] = part
            progress.advance(len(part.totals), f"return {part.totals.mean():.2f}")
    ordered = [parts[place] for place in range(len(groups))]
    names = ("observations", "masks", "actions", "returns", "totals")
    return Demonstrations(**{name: np.concatenate([getattr(part, name) for part in ordered]) for name in names})


def valid_teacher(name: str) -> None:
    """Check that an agent can be imitated.

    Raises:
        LlmoError: There is no such agent, or it does not play by the menu alone.
    """
    agent: Agent = catalog.make_agent(name)
    if agent.search or isinstance(agent, LearningAgent) or agent.schedules(["scratch"]) != [None]:
        raise LlmoError("teacher", name, "a rule that plays by the menu alone, such as scripted")


def _play(env: str, teacher: str, indices: Sequence[int], random_share: float, seed: int) -> Demonstrations:
    spec = env_spec(env)
    population = Population(spec, len(indices), executor="batched")
    agent: Agent = catalog.make_agent(teacher, **tuned_parameters(teacher))
    agent.bind(spec.space)
    agent.reset(list(indices))
    population.reset({slot: spec.draw("train", index, 1.0) for slot, index in enumerate(indices)})
    dice = [np.random.default_rng([seed, index]) for index in indices]
    moves: list[list[tuple[NDArray[np.float32], NDArray[np.bool_], int, float]]] = [[] for _ in indices]
    going = list(range(len(indices)))
    while going:
        observations = np.stack([population.observe(slot) for slot in range(len(indices))])
        masks = np.stack([population.mask(slot) for slot in range(len(indices))])
        chosen = agent.act(observations, masks, np.array([not made for made in moves]))
        for slot in going:
            if dice[slot].random() < random_share:
                chosen[slot] = dice[slot].choice(np.flatnonzero(masks[slot]))
        steps = population.step({slot: int(chosen[slot]) for slot in going})
        for slot, step in steps.items():
            moves[slot].append((observations[slot], masks[slot], int(chosen[slot]), step.reward))
        going = [slot for slot in going if not steps[slot].terminated]
    returns = [np.cumsum([move[3] for move in episode][::-1])[::-1] for episode in moves]
    flat = [move for episode in moves for move in episode]
    return Demonstrations(
        observations=np.stack([move[0] for move in flat]),
        masks=np.stack([move[1] for move in flat]),
        actions=np.array([move[2] for move in flat], np.int64),
        returns=np.concatenate(returns).astype(np.float32),
        totals=np.array([episode[0] for episode in returns], np.float32),
    )
