"""A policy with an LSTM (Hochreiter and Schmidhuber 1997) for sb3-contrib's RecurrentPPO, which knows no masks.

The mask of allowed actions comes at the end of each observation and is taken from there. As without a memory, only the
critic reads what the policy must not know.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor, nn


class MaskInSight(VecEnvWrapper):
    """Observations end with the mask of allowed actions, [N, ... + A].

    Args:
        venv: Environments with a box of observations and the method `action_masks`.
        actions: A.
    """

    def __init__(self, venv: VecEnv, actions: int) -> None:
        box = venv.observation_space
        assert isinstance(box, Box)
        low, high = np.append(box.low, np.zeros(actions)), np.append(box.high, np.ones(actions))
        super().__init__(venv, observation_space=Box(low.astype(np.float32), high.astype(np.float32)))
        self._actions = actions

    def reset(self) -> NDArray[np.float32]:
        """Begin in every slot."""
        return self._seen(self.venv.reset())

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """See SB3's `VecEnv.step_wait`; at an episode's end nothing is masked."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for slot in np.flatnonzero(dones):
            last = infos[slot]["terminal_observation"]
            infos[slot]["terminal_observation"] = np.append(last, np.ones(self._actions, np.float32))
        return self._seen(observations), rewards, dones, infos

    def _seen(self, observations: Any) -> NDArray[np.float32]:
        masks = np.stack(self.venv.env_method("action_masks")).astype(np.float32)
        return np.concatenate([observations, masks], 1)


class Part(BaseFeaturesExtractor):
    """The observation without its mask, and without what comes after the first entries.

    Args:
        observation_space: Of the environments.
        actions: Entries of the mask, A.
        seen: How many entries are shown; the others are zero.
    """

    def __init__(self, observation_space: Space[Any], actions: int, seen: int) -> None:
        assert observation_space.shape is not None
        super().__init__(observation_space, observation_space.shape[0] - actions)
        self._actions, self._seen = actions, seen
        self.allowed = torch.zeros(0)

    def forward(self, observations: Tensor) -> Tensor:
        """See the class; keeps the mask in `allowed`."""
        self.allowed = observations[:, -self._actions :] > 0.5
        shown = torch.zeros_like(observations[:, : -self._actions])
        shown[:, : self._seen] = observations[:, : self._seen]
        return shown


class MaskedLstmPolicy(RecurrentActorCriticPolicy):
    """Actor and critic with an LSTM each.

    Args:
        seen: How many entries of an observation, the first, the actor reads.
        actions: Entries of the mask, the last.
    """

    def __init__(self, *arguments: Any, seen: int, actions: int, **parameters: Any) -> None:
        self.seen, self.actions = seen, actions
        parameters |= {
            "net_arch": {"pi": [], "vf": []},
            "share_features_extractor": False,
            "features_extractor_class": Part,
            "features_extractor_kwargs": {"actions": actions, "seen": seen},
        }
        super().__init__(*arguments, **parameters)
        assert isinstance(self.vf_features_extractor, Part)
        self.vf_features_extractor._seen = self.features_dim

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        allowed: Tensor = self.pi_features_extractor.allowed  # type: ignore[assignment]
        logits = torch.where(allowed, self.action_net(latent_pi), -1e8)
        return self.action_dist.proba_distribution(action_logits=logits)

    def observed(self, features: Tensor, masks: Tensor) -> Tensor:
        """Observations [n, ...] of features [n, seen] and masks [n, A], without what only the critic may know."""
        hidden = torch.zeros(len(features), self.features_dim - self.seen)
        return torch.cat([features, hidden, masks.float()], 1)

    def logits_of_episodes(self, observations: Tensor, episodes: int) -> Tensor:
        """Normalised logits of whole episodes of equal length, one after another, [n, A]."""
        states = torch.zeros(self.lstm_actor.num_layers, episodes, self.lstm_actor.hidden_size)
        found, _ = self.get_distribution(observations, (states, states), torch.zeros(len(observations)))
        categorical: Any = found.distribution
        logits: Tensor = categorical.logits
        return logits

    def actor(self) -> LstmActor:
        """A copy of what acts."""
        actor = LstmActor(self.seen, self.actions, self.lstm_actor.hidden_size)
        weights = dict(self.lstm_actor.state_dict())
        weights["weight_ih_l0"] = weights["weight_ih_l0"][:, : self.seen]
        actor.lstm.load_state_dict(weights)
        actor.head.load_state_dict(self.action_net.state_dict())
        return actor


class LstmActor(nn.Module):
    """Features [n, F] and states to logits of the actions [n, A] and states.

    Args:
        features: F.
        actions: A.
        hidden: Width of the states.
    """

    def __init__(self, features: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(features, hidden), nn.Linear(hidden, actions)

    def forward(self, features: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See the class; the two states are [1, n, hidden]."""
        output, states = self.lstm(features[None], states)
        return self.head(output[0]), states

    def begin(self) -> tuple[Tensor, Tensor]:
        """The states of a run that begins."""
        return torch.zeros(1, 1, self.lstm.hidden_size), torch.zeros(1, 1, self.lstm.hidden_size)
