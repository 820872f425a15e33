"""PPO with a memory: an LSTM that can remember how this run answered, by sb3-contrib's RecurrentPPO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmo.agent import Space
from llmo.learned import NetworkAgent
from llmo.registry import agents

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv
    from torch import Tensor, nn

    from llmo.evaluation.demonstrations import Demonstrations
    from llmo.evaluation.masked_lstm import LstmActor
    from llmo.run_dir import RunDir


@agents.register("ppo_recurrent")
class RecurrentPpo(NetworkAgent):
    """Like `ppo`, with an LSTM instead of hidden layers; the order of the sources is nothing special to it.

    Args:
        policy: Folder that `llmo train --agent ppo_recurrent` wrote.
        **parameters: Of learning, see `NetworkAgent`.
    """

    kind, layers = "ppo_recurrent", 1
    net: LstmActor

    def reset(self, seeds: Sequence[int]) -> None:
        """See `Agent.reset`."""
        super().reset(seeds)
        self._states: dict[int, tuple[Tensor, Tensor]] = {}

    def network(self, features: Sequence[str], actions: Sequence[str], hidden: Sequence[int]) -> nn.Module:
        """See `NetworkAgent.network`."""
        from llmo.evaluation.masked_lstm import LstmActor

        return LstmActor(len(features), len(actions), hidden[0])

    def logits(self, observation: Tensor, episode_start: NDArray[np.bool_]) -> Tensor:
        """See `NetworkAgent.logits`; one run at a time, as a run must not depend on its neighbours."""
        import torch

        rows = []
        for run, row in enumerate(observation):
            states = self.net.begin() if episode_start[run] else self._states[run]
            logits, self._states[run] = self.net(row[None], states)
            rows.append(logits)
        return torch.cat(rows)

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
        """Learn a policy; see `Ppo.learn`."""
        from sb3_contrib import RecurrentPPO

        from llmo.evaluation.imitation import imitate_episodes
        from llmo.evaluation.learning import learn
        from llmo.evaluation.masked_lstm import MaskedLstmPolicy, MaskInSight

        self.space = space
        model = RecurrentPPO(
            MaskedLstmPolicy,
            MaskInSight(env, len(space.actions)),
            policy_kwargs={
                "lstm_hidden_size": self.hidden[0],
                "seen": len(space.features),
                "actions": len(space.actions),
            },
            **self.ppo(seed, gamma, env.num_envs),
        )
        policy = model.policy
        assert isinstance(policy, MaskedLstmPolicy)

        def warm_up() -> None:
            if demonstrations is not None:
                imitate_episodes(policy, demonstrations)

        learn(model, env, steps, run, warm_up, on_update, seed)
        self.play(policy.actor(), space.actions, space.features)
