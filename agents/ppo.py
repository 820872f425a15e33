"""The learned policy: PPO (Schulman et al. 2017) with masked actions (Huang and Ontanon 2022), by sb3-contrib.

It begins by imitating a scripted teacher; its critic may see more than the policy itself. Gains add up to the whole
gain of an episode at a discount of 1 only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmo.agent import Space
from llmo.learned import NetworkAgent
from llmo.registry import agents

if TYPE_CHECKING:
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.vec_env import VecEnv
    from torch import Tensor, nn

    from llmo.evaluation.demonstrations import Demonstrations
    from llmo.evaluation.frames import Frames
    from llmo.run_dir import RunDir


@agents.register("ppo")
class Ppo(NetworkAgent):
    """The policy that PPO has learned.

    Args:
        policy: Folder that `llmo train` wrote, also to go on learning from; by default the shipped policy is played.
        **parameters: Of learning, see `NetworkAgent`; the two hidden layers of actor and critic have tanh.
    """

    kind, layers = "ppo", 2
    shipped: Path | None = Path(__file__).parent / "trained" / "ppo"
    shipped_own: Path | None = Path(__file__).parent / "trained" / "ppo_own"
    goes_on = True
    frames = 1
    """How many of a run's last observations it looks at."""
    _frames: Frames | None = None

    def network(self, features: Sequence[str], actions: Sequence[str], hidden: Sequence[int]) -> nn.Module:
        """See `NetworkAgent.network`."""
        from llmo.evaluation.actor_critic import Actor
        from llmo.evaluation.frames import stacked_names

        return Actor(stacked_names(features, self.frames), actions, hidden)

    def logits(self, observation: Tensor, episode_start: NDArray[np.bool_]) -> Tensor:
        """See `NetworkAgent.logits`."""
        import torch

        from llmo.evaluation.frames import Frames

        if self._frames is None or len(self._frames.held) != len(observation):
            self._frames = Frames(self.frames, *observation.shape)
        seen = torch.from_numpy(self._frames.push(observation.numpy(), episode_start))
        # One run at a time: a batched product may round differently, and a run must not depend on its neighbours.
        return torch.cat([self.net(row[None]) for row in seen])

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
    ) -> None:
        """Learn a policy, from nothing or from the policy that it was given.

        Continues from the newest checkpoint of the run folder.

        Args:
            space: Names of actions and features.
            env: Environments to learn on; what an observation has beyond the space's features only the critic sees.
            steps: Environment steps in all, rounded up to whole updates.
            run: Where checkpoints and the record `progress.jsonl` go.
            demonstrations: Moves to imitate first; a run that is continued has done so.
            on_update: Called after every update with its line of the record, to which it may add.
            seed: Of everything random.
            gamma: Discount.
        """
        from llmo.evaluation.imitation import imitate
        from llmo.evaluation.learning import learn

        self.space = space
        if self.policy:
            self.bind(space)
        model = self._model(env, space, seed, gamma)

        def warm_up() -> None:
            if self.policy:
                model.policy.begin_as(self.net)  # type: ignore[operator]
            if demonstrations is not None:
                imitate(model.policy, demonstrations, self.frames)

        learn(model, env, steps, run, warm_up, on_update, seed)
        self.play(model.policy.actor(), space.actions, space.features)  # type: ignore[operator]

    def _model(self, env: VecEnv, space: Space, seed: int, gamma: float) -> MaskablePPO:
        from sb3_contrib import MaskablePPO

        from llmo.evaluation.actor_critic import AsymmetricPolicy
        from llmo.evaluation.frames import FrameStack, stacked_names
        from llmo.mdp.privileged import PRIVILEGED

        stacked = FrameStack(env, len(space.features), self.frames)
        seen, shape = stacked_names(space.features, self.frames), stacked.observation_space.shape
        assert shape is not None
        names = (*seen, *PRIVILEGED)[: shape[0]]
        return MaskablePPO(
            AsymmetricPolicy,
            stacked,
            policy_kwargs={
                "net_arch": list(self.hidden),
                "features": names,
                "seen": len(seen),
                "actions": space.actions,
            },
            **self.ppo(seed, gamma, env.num_envs),
        )


@agents.register("ppo_stacked")
class StackedPpo(Ppo):
    """The same with the last four observations, to see whether it helps to remember how a run answered.

    Args:
        policy: Folder that `llmo train --agent ppo_stacked` wrote.
    """

    kind = "ppo_stacked"
    shipped = shipped_own = None
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
