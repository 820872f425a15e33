"""The learned policy: PPO (Schulman et al. 2017) with masked actions (Huang and Ontanon 2022), by sb3-contrib.

It may begin by imitating a scripted teacher. The discount is 1, since gains add up to the whole gain of an episode only
then. Learning stops and continues at checkpoints, every `EVERY` updates: there the environments begin anew and every
random stream is seeded from the number of the update, so a resumed run gives the same policy as one that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmo.agent import Agent, Space
from llmo.errors import LlmoError
from llmo.policy_file import load_policy, save_policy
from llmo.registry import agents

if TYPE_CHECKING:
    import torch
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.vec_env import VecEnv

    from llmo.evaluation.demonstrations import Demonstrations
    from llmo.run_dir import RunDir

EVERY = 5
"""Updates between checkpoints."""
HIDDEN = (64, 64)
"""Widths of the hidden layers of actor and critic, tanh."""
IMITATION = {"epochs": 30, "batch": 256, "rate": 1e-3}


@agents.register("ppo")
class Ppo(Agent):
    """The policy that PPO has learned; it takes the action that it finds likeliest to be best.

    Args:
        policy: Folder that `llmo train` wrote.
    """

    def __init__(self, policy: str = "") -> None:
        self.policy = policy
        self.card: dict[str, Any] = {}

    def bind(self, space: Space) -> None:
        """Load the policy.

        Raises:
            LlmoError: There is none in the folder, or it was learned with other actions or features.
        """
        super().bind(space)
        if not self.policy:
            raise LlmoError("policy of ppo", self.policy, "a folder that `llmo train` wrote, given by --policy")
        stored = load_policy(self.policy)
        for what, mine in (("actions", space.actions), ("features", space.features)):
            if tuple(stored.settings.get(what, ())) != mine:
                raise LlmoError("policy", self.policy, f"one learned with the {what} of this version")
        self.card = stored.card
        self._network = _network(space, tuple(stored.settings["hidden"]))
        try:
            self._network.load_state_dict(stored.tensors)
        except RuntimeError as error:
            raise LlmoError("policy", self.policy, "one whose weights fit its settings") from error
        self._network.set_training_mode(False)

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`."""
        import torch

        # One run at a time: a batched product may round differently, and a run must not depend on its neighbours.
        with torch.no_grad():
            rows = [
                self._network.get_distribution(torch.from_numpy(row)[None], allowed[None]).distribution.probs[0]
                for row, allowed in zip(observation, mask, strict=True)
            ]
        self._probabilities = torch.stack(rows).numpy()
        return self._probabilities.argmax(1).astype(np.int64)

    def explain(self) -> list[str]:
        """See `Agent.explain`: the likeliest actions with their probabilities."""
        reasons = []
        for row in self._probabilities:
            best = np.argsort(-row)[:3]
            reasons.append(", ".join(f"{self.space.actions[index]} {row[index]:.2f}" for index in best))
        return reasons

    def learn(
        self,
        env: VecEnv,
        updates: int,
        run: RunDir,
        demonstrations: Demonstrations | None = None,
        on_update: Callable[[dict[str, Any]], None] | None = None,
        *,
        seed: int = 0,
        rate: float = 5e-4,
        steps: int = 16,
        epochs: int = 4,
        entropy: float = 0.005,
    ) -> None:
        """Learn a policy; continues from the newest checkpoint of the run folder.

        Args:
            env: Environments to learn on.
            updates: Updates of PPO in all.
            run: Where checkpoints and the record `progress.jsonl` go.
            demonstrations: Moves to imitate first; a run that is continued has done so.
            on_update: Called after every update with its line of the record, to which it may add.
            seed: Of everything random.
            rate: Learning rate of Adam.
            steps: Environment steps in each slot before an update.
            epochs: Passes over the steps in each update.
            entropy: Weight of the entropy bonus.
        """
        from stable_baselines3.common.utils import set_random_seed

        model = _model(env, seed, rate, steps, epochs, entropy)
        done = _restore(model, run)
        if not done and demonstrations is not None:
            set_random_seed(seed)
            imitate(model.policy, demonstrations)
        recorder = _recorder(run, on_update)
        for first in range(done, updates, EVERY):
            set_random_seed(int(np.random.SeedSequence([seed, first]).generate_state(1)[0]))
            env.seed(int(np.random.SeedSequence([seed, first, 1]).generate_state(1)[0]))
            model._last_obs = None
            count = min(EVERY, updates - first)
            model.learn(count * steps * env.num_envs, callback=recorder, reset_num_timesteps=False)
            run.checkpoint(first + count, _state(model), {"timesteps": model.num_timesteps, "updates": first + count})
        self._network = model.policy

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Write the policy as safetensors and JSON, with a card that says how it was learned."""
        settings = {"hidden": list(HIDDEN), "actions": list(self.space.actions), "features": list(self.space.features)}
        save_policy(folder, self._network.state_dict(), settings, card)


def _network(space: Space, hidden: tuple[int, ...]) -> Any:
    """Actor and critic of the shape that learning uses."""
    import gymnasium
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

    from llmo.diagnostics.features import LIMIT

    box = gymnasium.spaces.Box(-LIMIT, LIMIT, (len(space.features),), np.float32)
    actions: Any = gymnasium.spaces.Discrete(len(space.actions))
    return MaskableActorCriticPolicy(box, actions, lambda _: 0.0, net_arch=list(hidden))


def _model(env: VecEnv, seed: int, rate: float, steps: int, epochs: int, entropy: float) -> MaskablePPO:
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.logger import Logger

    model = MaskablePPO(
        "MlpPolicy",
        env,
        learning_rate=rate,
        n_steps=steps,
        batch_size=256,
        n_epochs=epochs,
        gamma=1.0,
        gae_lambda=0.95,
        ent_coef=entropy,
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=seed,
        device="cpu",
    )
    # Without a logger of its own, SB3 leaves folders in the system's temporary folder.
    model.set_logger(Logger(None, []))
    return model


def _state(model: MaskablePPO) -> dict[str, torch.Tensor]:
    """Weights and moments of the optimizer, by name."""
    import torch

    tensors = {f"policy/{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for index, moments in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    return tensors


def _restore(model: MaskablePPO, run: RunDir) -> int:
    """Load the newest checkpoint into the model; how many updates it had."""
    checkpoint = run.latest_checkpoint()
    run.rewind(checkpoint)
    if checkpoint is None:
        return 0
    tensors = checkpoint.tensors
    model.policy.load_state_dict({n.removeprefix("policy/"): t for n, t in tensors.items() if n.startswith("policy/")})
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = tensor
    optimizer = model.policy.optimizer
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    model.num_timesteps = int(checkpoint.meta["timesteps"])
    return int(checkpoint.meta["updates"])


def imitate(policy: Any, moves: Demonstrations) -> None:
    """Fit the actor to the moves and the critic to their returns, by cross-entropy and squared error."""
    import torch

    optimizer = torch.optim.Adam(policy.parameters(), lr=IMITATION["rate"])
    observations, actions = torch.from_numpy(moves.observations), torch.from_numpy(moves.actions)
    returns = torch.from_numpy(moves.returns)
    policy.set_training_mode(True)
    for _ in range(int(IMITATION["epochs"])):
        for part in torch.randperm(len(actions)).split(int(IMITATION["batch"])):
            values, likelihood, _ = policy.evaluate_actions(
                observations[part], actions[part], moves.masks[part.numpy()]
            )
            loss = -likelihood.mean() + 0.5 * torch.nn.functional.mse_loss(values.flatten(), returns[part])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()


def _recorder(run: RunDir, on_update: Callable[[dict[str, Any]], None] | None) -> Any:
    """A callback that writes one line of the record after the rollout of every update."""
    import time

    from stable_baselines3.common.callbacks import BaseCallback

    class Recorder(BaseCallback):
        """Collects the returns of the episodes that ended since the last update."""

        started = time.monotonic()

        def _on_rollout_start(self) -> None:
            self.returns: list[float] = []
            self.lengths: list[int] = []

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    self.returns.append(info["episode"]["r"])
                    self.lengths.append(info["episode"]["l"])
            return True

        def _on_rollout_end(self) -> None:
            line = {
                "env_steps": self.num_timesteps,
                "episodes": len(self.returns),
                "return": float(np.mean(self.returns)) if self.returns else None,
                "length": float(np.mean(self.lengths)) if self.lengths else None,
                "seconds": time.monotonic() - self.started,
            }
            if on_update is not None:
                on_update(line)
            run.append(line, "progress.jsonl")

    return Recorder()
