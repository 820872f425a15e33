"""A policy imitates a teacher's moves before it learns on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llmo.evaluation.demonstrations import Demonstrations
from llmo.evaluation.frames import Frames

if TYPE_CHECKING:
    from llmo.evaluation.masked_lstm import MaskedLstmPolicy

STEPS, BATCH, RATE = 700, 256, 1e-3
"""Batches of moves, moves in a batch, and rate of Adam."""
EPISODES = 16
"""In a batch of whole episodes, which has about as many moves."""
RANDOM_SHARE = 0.1
"""Share of the probability that is spread over all allowed actions, so that every action will be tried."""
CLIP_NORM = 0.5


def imitate(policy: Any, moves: Demonstrations, frames: int) -> None:
    """Fit the actor to the moves.

    Args:
        policy: A maskable actor-critic policy of sb3-contrib; changed in place.
        moves: What to imitate.
        frames: How many of the last observations the policy sees.
    """
    seen = Frames(frames, 1, moves.observations.shape[1])
    each = [seen.push(moves.observations[move, None], moves.starts[move, None]) for move in range(len(moves.actions))]
    observations, actions = torch.from_numpy(np.concatenate(each)), torch.from_numpy(moves.actions)
    # The actor reads nothing of what only a critic may know.
    observations = torch.nn.functional.pad(observations, (0, policy.observation_space.shape[0] - observations.shape[1]))
    masks = torch.from_numpy(moves.masks)

    def loss() -> Tensor:
        part = torch.randint(len(actions), (BATCH,))
        logits = policy.get_distribution(observations[part], masks[part].numpy()).distribution.logits
        return smoothed_cross_entropy(logits, actions[part], masks[part]).mean()

    _fit(policy, loss)


def imitate_episodes(policy: MaskedLstmPolicy, moves: Demonstrations) -> None:
    """Fit a recurrent actor to whole episodes.

    Args:
        policy: Changed in place.
        moves: What to imitate.
    """
    first = np.append(np.flatnonzero(moves.starts), len(moves.actions))
    episodes = [np.arange(first[place], first[place + 1]) for place in range(len(first) - 1)]
    longest = max(map(len, episodes))
    # Places after an episode's end repeat its last move and do not count.
    places = torch.from_numpy(np.stack([np.pad(one, (0, longest - len(one)), "edge") for one in episodes]))
    real = torch.from_numpy(np.stack([np.arange(longest) < len(one) for one in episodes]))
    masks, actions = torch.from_numpy(moves.masks), torch.from_numpy(moves.actions)
    observations = policy.observed(torch.from_numpy(moves.observations), masks)

    def loss() -> Tensor:
        part = torch.randint(len(places), (EPISODES,))
        rows = places[part].flatten()
        logits = policy.logits_of_episodes(observations[rows], EPISODES)
        return smoothed_cross_entropy(logits, actions[rows], masks[rows])[real[part].flatten()].mean()

    _fit(policy, loss)


def smoothed_cross_entropy(logits: Tensor, actions: Tensor, allowed: Tensor) -> Tensor:
    """Cross-entropy of some moves, smoothed over the allowed actions (Szegedy et al. 2016), [n].

    Args:
        logits: Normalised, [n, A]; what is not allowed has next to no probability.
        actions: [n].
        allowed: [n, A].
    """
    spread = torch.where(allowed, logits, 0.0).sum(1) / allowed.sum(1)
    chosen = logits.gather(1, actions[:, None]).squeeze(1)
    return -((1 - RANDOM_SHARE) * chosen + RANDOM_SHARE * spread)


def _fit(policy: Any, loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)
    policy.set_training_mode(True)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), CLIP_NORM)
        optimizer.step()
