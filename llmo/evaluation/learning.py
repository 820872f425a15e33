"""What learning with stable-baselines3 needs besides: imitation, checkpoints without pickle, a record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy

from llmo.evaluation.demonstrations import Demonstrations
from llmo.evaluation.frames import Frames
from llmo.run_dir import RunDir

STEPS, BATCH, RATE = 700, 256, 1e-3
"""Batches of moves, moves in a batch, and rate of Adam, while imitating."""
RANDOM_SHARE = 0.1
"""Share of the probability that imitation spreads over all allowed actions, so that every action will be tried."""
CLIP_NORM = 0.5


def imitate(policy: Any, moves: Demonstrations, frames: int) -> None:
    """Fit the actor to the moves by cross-entropy, smoothed over the allowed actions (Szegedy et al. 2016).

    Args:
        policy: A maskable actor-critic policy of sb3-contrib; changed in place.
        moves: What to imitate.
        frames: How many of the last observations the policy sees.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)
    seen = Frames(frames, 1, moves.observations.shape[1])
    each = [seen.push(moves.observations[move, None], moves.starts[move, None]) for move in range(len(moves.actions))]
    observations, actions = torch.from_numpy(np.concatenate(each)), torch.from_numpy(moves.actions)
    # The actor reads nothing of what only a critic may know.
    more = policy.observation_space.shape[0] - observations.shape[1]
    observations = torch.nn.functional.pad(observations, (0, more))
    masks = torch.from_numpy(moves.masks)
    policy.set_training_mode(True)
    for _ in range(STEPS):
        part = torch.randint(len(actions), (BATCH,))
        allowed = masks[part]
        logs = policy.get_distribution(observations[part], allowed.numpy()).distribution.logits
        spread = torch.where(allowed, logs, 0.0).sum(1) / allowed.sum(1)
        chosen = logs.gather(1, actions[part, None]).squeeze(1)
        loss = -((1 - RANDOM_SHARE) * chosen + RANDOM_SHARE * spread).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), CLIP_NORM)
        optimizer.step()


def save_checkpoint(model: BaseAlgorithm, run: RunDir, updates: int) -> None:
    """Save weights and moments of the optimizer after some updates."""
    tensors = {f"policy/{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for index, moments in _optimizer(model.policy).state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    run.checkpoint(updates, tensors, {"env_steps": model.num_timesteps})


def load_checkpoint(model: BaseAlgorithm, run: RunDir) -> int:
    """Load the newest checkpoint, where there is one, and cut the record to it; how many updates it had."""
    checkpoint = run.latest_checkpoint()
    run.rewind(checkpoint)
    if checkpoint is None:
        return 0
    tensors = checkpoint.tensors
    model.policy.load_state_dict({n.removeprefix("policy/"): t for n, t in tensors.items() if n.startswith("policy/")})
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = tensor
    optimizer = _optimizer(model.policy)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    model.num_timesteps = int(checkpoint.meta["env_steps"])
    return checkpoint.step


def _optimizer(policy: BasePolicy) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = policy.optimizer
    return optimizer


class Recorder(BaseCallback):
    """Writes a line of `progress.jsonl` for every update: what the episodes gained that ended since the last one.

    Args:
        run: Where the record is.
        on_update: Called with each line before it is written; it may add to the line.
    """

    def __init__(self, run: RunDir, on_update: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._run, self._on_update = run, on_update
        self._started = time.monotonic()

    def _on_rollout_start(self) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._returns.append(info["episode"]["r"])
                self._lengths.append(info["episode"]["l"])
        return True

    def _on_rollout_end(self) -> None:
        line = {
            "env_steps": self.num_timesteps,
            "episodes": len(self._returns),
            "return": float(np.mean(self._returns)) if self._returns else None,
            "length": float(np.mean(self._lengths)) if self._lengths else None,
            "seconds": time.monotonic() - self._started,
        }
        self._on_update(line)
        self._run.append(line, "progress.jsonl")
