"""What learning a policy with stable-baselines3 needs besides: imitation, checkpoints without pickle, a record."""

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
from llmo.run_dir import RunDir

EPOCHS, BATCH, RATE = 30, 256, 1e-3
"""Passes over the demonstrations, moves in a batch, and rate of Adam, while imitating."""
CLIP_NORM = 0.5


def imitate(policy: Any, moves: Demonstrations) -> None:
    """Fit the actor to the moves and the critic to their returns, by cross-entropy and squared error.

    Args:
        policy: A maskable actor-critic policy of sb3-contrib; changed in place.
        moves: What to imitate.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)
    observations, actions = torch.from_numpy(moves.observations), torch.from_numpy(moves.actions)
    returns = torch.from_numpy(moves.returns)
    policy.set_training_mode(True)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(actions)).split(BATCH):
            masks = moves.masks[part.numpy()]
            values, likelihood, _ = policy.evaluate_actions(observations[part], actions[part], masks)
            loss = -likelihood.mean() + 0.5 * torch.nn.functional.mse_loss(values.flatten(), returns[part])
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
