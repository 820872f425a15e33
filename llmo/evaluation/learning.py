"""Learning with stable-baselines3 that can be stopped and continued: checkpoints without pickle, a record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from llmo.run_dir import RunDir

EVERY = 24
"""Updates between checkpoints: where learning stops and continues."""
LAST_RATE = 0.1
"""Of the first rate, in the last update."""


def learn(
    model: Any,
    env: VecEnv,
    steps: int,
    run: RunDir,
    warm_up: Callable[[], None],
    on_update: Callable[[dict[str, Any]], None],
    seed: int,
) -> None:
    """Let an on-policy algorithm learn; continues from the newest checkpoint of the run folder.

    Its rate decays linearly to a tenth, as late steps are for settling. At checkpoints the environments begin anew and
    every random stream is seeded from the number of the update, so a resumed run gives the same policy as one that
    never stopped.

    Args:
        model: Of stable-baselines3 or sb3-contrib; changed in place.
        env: Its environments, before any wrapper.
        steps: Environment steps in all, rounded up to whole updates.
        run: Where checkpoints and the record `progress.jsonl` go.
        warm_up: Called once before the first update.
        on_update: Called after every update with its line of the record, to which it may add.
        seed: Of everything random.
    """
    # Without a logger of its own, SB3 leaves folders in the system's temporary folder.
    model.set_logger(Logger(None, []))
    each = model.n_steps * env.num_envs
    updates = -(-steps // each)
    first_rate = model.learning_rate
    model.lr_schedule = lambda _: first_rate * (1 - (1 - LAST_RATE) * min(1.0, model.num_timesteps / (updates * each)))
    done = _load_checkpoint(model, run)
    if not done:
        set_random_seed(seed)
        warm_up()
    recorder = Recorder(run, on_update)
    for first in range(done, updates, EVERY):
        set_random_seed(int(np.random.SeedSequence([seed, first]).generate_state(1)[0]))
        env.seed(int(np.random.SeedSequence([seed, first, 1]).generate_state(1)[0]))
        # Without a last observation `learn` resets the environments, which a resumed run cannot help doing.
        model._last_obs = None
        count = min(EVERY, updates - first)
        model.learn(count * each, callback=recorder, reset_num_timesteps=False)
        _save_checkpoint(model, run, first + count)


def _save_checkpoint(model: BaseAlgorithm, run: RunDir, updates: int) -> None:
    """Save weights and moments of the optimizer after some updates."""
    tensors = {f"policy/{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for index, moments in _optimizer(model.policy).state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    run.checkpoint(updates, tensors, {"env_steps": model.num_timesteps})


def _load_checkpoint(model: BaseAlgorithm, run: RunDir) -> int:
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
