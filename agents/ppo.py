"""The learned policy: PPO (Schulman et al. 2017) with masked actions (Huang and Ontanon 2022), by sb3-contrib.

It begins by imitating a scripted teacher; its critic may see more than the policy itself. Gains add up to the whole
gain of an episode at a discount of 1 only. Learning stops and continues at checkpoints, every `EVERY` updates: there
the environments begin anew and every random stream is seeded from the number of the update, so a resumed run gives the
same policy as one that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmo.agent import LearningAgent, Space
from llmo.errors import LlmoError
from llmo.policy_file import load_policy, save_policy
from llmo.registry import agents

if TYPE_CHECKING:
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.vec_env import VecEnv

    from llmo.evaluation.demonstrations import Demonstrations
    from llmo.evaluation.frames import Frames
    from llmo.run_dir import RunDir

EVERY = 5
"""Updates between checkpoints."""
ROLLOUT = 16
"""Environment steps in each slot before an update."""
EPOCHS = 8
"""Passes over them in each update."""
ENTROPY = 0.01
"""Weight of the entropy bonus."""
GAE_LAMBDA = 0.9
"""Of generalised advantage estimation (Schulman et al. 2016)."""
HIDDEN = (64, 64)
"""Widths of the hidden layers of actor and critic, tanh."""


@agents.register("ppo")
class Ppo(LearningAgent):
    """The policy that PPO has learned; it takes the action that it finds likeliest to be best.

    Args:
        policy: Folder that `llmo train` wrote; by default that of the shipped policy.
    """

    shipped: Path | None = Path(__file__).parent / "trained" / "ppo"
    frames = 1
    """How many of a run's last observations it looks at."""

    def __init__(self, policy: str = "") -> None:
        self.policy = policy
        self._frames: Frames | None = None

    def bind(self, space: Space) -> None:
        """Load the policy.

        Raises:
            LlmoError: There is none in the folder, or it was learned with fewer actions or other features.
        """
        from llmo.evaluation.actor_critic import Actor
        from llmo.evaluation.frames import stacked_names

        super().bind(space)
        folder = self.policy or str(self.shipped)
        stored = load_policy(folder)
        actions, features, hidden = (stored.settings.get(name, ()) for name in ("actions", "features", "hidden"))
        if features != list(space.features):
            raise LlmoError("policy", folder, "one learned with the features of this version")
        if not (isinstance(actions, list) and all(action in actions for action in space.actions)):
            raise LlmoError("policy", folder, "one learned with all actions of the menu")
        if not (isinstance(hidden, list) and 0 < len(hidden) <= 8 and all(width in range(1, 4097) for width in hidden)):
            raise LlmoError("hidden of policy", hidden, "a list of 1 to 8 widths from 1 to 4096")
        self._actor = Actor(stacked_names(features, self.frames), actions, hidden)
        self._menu = [actions.index(action) for action in space.actions]
        try:
            self._actor.load_state_dict(stored.tensors)
        except RuntimeError as error:
            raise LlmoError("policy", folder, "one whose weights fit its settings") from error

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`."""
        import torch

        seen = self._seen(observation, episode_start)
        # One run at a time: a batched product may round differently, and a run must not depend on its neighbours.
        with torch.no_grad():
            logits = torch.cat([self._actor(row[None])[:, self._menu] for row in torch.from_numpy(seen)])
        self._probabilities = logits.masked_fill(~torch.from_numpy(mask), -torch.inf).softmax(1).numpy()
        return self._probabilities.argmax(1).astype(np.int64)

    def _seen(self, observation: NDArray[np.float32], episode_start: NDArray[np.bool_]) -> NDArray[np.float32]:
        """What the policy looks at: the newest observations with those before them."""
        from llmo.evaluation.frames import Frames

        if self._frames is None or len(self._frames.held) != len(observation):
            self._frames = Frames(self.frames, *observation.shape)
        return self._frames.push(observation, episode_start)

    def explain(self) -> list[str]:
        """See `Agent.explain`: the likeliest actions with their probabilities."""
        reasons = []
        for row in self._probabilities:
            best = np.argsort(-row)[:3]
            reasons.append(", ".join(f"{self.space.actions[index]} {row[index]:.2f}" for index in best))
        return reasons

    def learn(
        self,
        space: Space,
        env: VecEnv,
        steps: int,
        run: RunDir,
        demonstrations: Demonstrations | None,
        on_update: Callable[[dict[str, Any]], None],
        *,
        seed: int = 0,
        gamma: float = 1.0,
        rate: float = 1e-3,
    ) -> None:
        """Learn a policy; continues from the newest checkpoint of the run folder.

        Args:
            space: Names of actions and features.
            env: Environments to learn on; what an observation has beyond the space's features only the critic sees.
            steps: Environment steps in all, rounded up to whole updates.
            run: Where checkpoints and the record `progress.jsonl` go.
            demonstrations: Moves to imitate first; a run that is continued has done so.
            on_update: Called after every update with its line of the record, to which it may add.
            seed: Of everything random.
            gamma: Discount.
            rate: Learning rate of Adam.
        """
        from stable_baselines3.common.utils import set_random_seed

        from llmo.evaluation.learning import Recorder, imitate, load_checkpoint, save_checkpoint

        self.space = space
        model = _model(env, space, self.frames, seed, gamma, rate)
        updates = -(-steps // (ROLLOUT * env.num_envs))
        done = load_checkpoint(model, run)
        if not done and demonstrations is not None:
            set_random_seed(seed)
            imitate(model.policy, demonstrations, self.frames)
        recorder = Recorder(run, on_update)
        for first in range(done, updates, EVERY):
            set_random_seed(int(np.random.SeedSequence([seed, first]).generate_state(1)[0]))
            env.seed(int(np.random.SeedSequence([seed, first, 1]).generate_state(1)[0]))
            # Without a last observation `learn` resets the environments, which a resumed run cannot help doing.
            model._last_obs = None
            count = min(EVERY, updates - first)
            model.learn(count * ROLLOUT * env.num_envs, callback=recorder, reset_num_timesteps=False)
            save_checkpoint(model, run, first + count)
        self._actor, self._menu = model.policy.actor(), list(range(len(space.actions)))  # type: ignore[operator]

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Write the policy as safetensors and JSON, with a card that says how it was learned."""
        settings = {"hidden": list(HIDDEN), "actions": list(self.space.actions), "features": list(self.space.features)}
        save_policy(folder, self._actor.state_dict(), settings, card)


@agents.register("ppo_stacked")
class StackedPpo(Ppo):
    """The same with the last four observations, to see whether it helps to remember how a run answered.

    Args:
        policy: Folder that `llmo train --agent ppo_stacked` wrote.
    """

    shipped = None
    frames = 4


@agents.register("ppo_shuffled")
class ShuffledPpo(Ppo):
    """The same policy with the entries of each observation shuffled: what is left is what seeing is not needed for.

    Args:
        policy: Folder that `llmo train` wrote.
    """

    control = True

    def reset(self, seeds: Sequence[int]) -> None:
        """See `Agent.reset`."""
        super().reset(seeds)
        self._randoms = [np.random.default_rng(seed) for seed in seeds]

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`."""
        shuffled = [random.permutation(row) for random, row in zip(self._randoms, observation, strict=True)]
        return super().act(np.stack(shuffled), mask, episode_start)


def _model(env: VecEnv, space: Space, frames: int, seed: int, gamma: float, rate: float) -> MaskablePPO:
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.logger import Logger

    from llmo.evaluation.actor_critic import AsymmetricPolicy
    from llmo.evaluation.frames import FrameStack, stacked_names
    from llmo.mdp.privileged import PRIVILEGED

    stacked = FrameStack(env, len(space.features), frames)
    seen, shape = stacked_names(space.features, frames), stacked.observation_space.shape
    assert shape is not None
    names = (*seen, *PRIVILEGED)[: shape[0]]
    model = MaskablePPO(
        AsymmetricPolicy,
        stacked,
        learning_rate=rate,
        n_steps=ROLLOUT,
        batch_size=256,
        n_epochs=EPOCHS,
        gamma=gamma,
        gae_lambda=GAE_LAMBDA,
        ent_coef=ENTROPY,
        policy_kwargs={"net_arch": list(HIDDEN), "features": names, "seen": len(seen), "actions": space.actions},
        seed=seed,
        device="cpu",
    )
    # Without a logger of its own, SB3 leaves folders in the system's temporary folder.
    model.set_logger(Logger(None, []))
    return model
