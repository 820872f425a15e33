"""The base of agents that play a network which PPO has trained: how it is loaded, what is likeliest, what PPO is given.

A policy is two plain files, see `policy_file.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmo.agent import LearningAgent, Space
from llmo.errors import LlmoError
from llmo.policy_file import load_policy, save_policy

if TYPE_CHECKING:
    from torch import Tensor, nn


ROLLOUT, BATCH = 16, 256
"""Environment steps in each slot before an update, and transitions in a batch of it."""
UPDATE, LEAST_ROLLOUT = 4096, 4
"""Transitions that an update has at most, unless each slot would make fewer steps than these."""


class NetworkAgent(LearningAgent):
    """Takes the allowed action that its network finds likeliest to be best.

    Args:
        policy: Folder that `llmo train` wrote, also to go on learning from; by default the shipped policy is played.
        rate: First learning rate of Adam.
        entropy: Weight of the entropy bonus.
        gae_lambda: Of generalised advantage estimation (Schulman et al. 2016).
        epochs: Passes over what was collected, in each update.
        width: Of the hidden layers of what is learned next.

    Attributes:
        layers: How many hidden layers it learns with.
        hidden: Their widths, of what is learned next or was loaded.
        kind: What its policies say that they are, as an agent can play those of its kind only.
        net: The network; set by `play`.
    """

    layers: int
    hidden: tuple[int, ...]
    kind: str
    net: nn.Module

    def __init__(
        self,
        policy: str = "",
        rate: float = 1e-3,
        entropy: float = 0.01,
        gae_lambda: float = 0.9,
        epochs: int = 8,
        width: int = 64,
    ) -> None:
        self.policy, self.hidden = policy, (width,) * self.layers
        self._ppo = {"learning_rate": rate, "ent_coef": entropy, "gae_lambda": gae_lambda, "n_epochs": epochs}

    def ppo(self, seed: int, gamma: float, slots: int) -> dict[str, Any]:
        """What any PPO of stable-baselines3 is given; large populations are asked more often for fewer steps.

        Args:
            seed: Of everything random.
            gamma: Discount.
            slots: How many environments step together.
        """
        fixed = {"n_steps": max(LEAST_ROLLOUT, min(ROLLOUT, UPDATE // slots)), "batch_size": BATCH, "device": "cpu"}
        return {**self._ppo, **fixed, "seed": seed, "gamma": gamma}

    @abstractmethod
    def network(self, features: Sequence[str], actions: Sequence[str], hidden: Sequence[int]) -> nn.Module:
        """A network of the kind that it plays, for names of features and actions and some widths."""

    @abstractmethod
    def logits(self, observation: Tensor, episode_start: NDArray[np.bool_]) -> Tensor:
        """What the network says of each run, [n, actions that it was learned with].

        Args:
            observation: Features, [n, F].
            episode_start: Which runs have just begun, [n].
        """

    def bind(self, space: Space) -> None:
        """Load the policy.

        Raises:
            LlmoError: There is none in the folder, or it was learned with features that are not seen here, or it knows
                no action of the menu but `keep`.
        """
        super().bind(space)
        folder = self.policy or str(self.shipped or "")
        if not folder:
            raise LlmoError("policy", "", "a folder that `llmo train` wrote, given by --policy")
        stored = load_policy(folder)
        actions, features, hidden = (stored.settings.get(name, ()) for name in ("actions", "features", "hidden"))
        if (kind := stored.settings.get("kind", "ppo")) != self.kind:
            raise LlmoError("policy", folder, f"one of the kind {self.kind}, not {kind}")
        if not (isinstance(features, list) and set(features) <= set(space.features)):
            raise LlmoError("policy", folder, "one learned with features that are seen here")
        if not (isinstance(actions, list) and {"keep"} < set(actions) & set(space.actions)):
            raise LlmoError("policy", folder, "one learned with actions of the menu")
        if not (isinstance(hidden, list) and 0 < len(hidden) <= 8 and all(width in range(1, 4097) for width in hidden)):
            raise LlmoError("hidden of policy", hidden, "a list of 1 to 8 widths from 1 to 4096")
        net = self.network(features, actions, hidden)
        try:
            net.load_state_dict(stored.tensors)
        except RuntimeError as error:
            raise LlmoError("policy", folder, "one whose weights fit its settings") from error
        self.hidden = tuple(hidden)
        self.play(net, actions, features)

    def play(self, net: nn.Module, actions: Sequence[str], features: Sequence[str]) -> None:
        """Play a network from now on: of the features it sees those it knows, of the menu it takes what it knows.

        Args:
            net: As `network` gives them.
            actions: Names of what it chooses among.
            features: Names of what it sees.
        """
        self.net = net
        self._known = [action in actions for action in self.space.actions]
        self._menu = [actions.index(action) if action in actions else 0 for action in self.space.actions]
        self._seen = [self.space.features.index(feature) for feature in features]

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`."""
        import torch

        seen = torch.from_numpy(np.ascontiguousarray(observation[:, self._seen]))
        with torch.no_grad():
            logits = self.logits(seen, episode_start)[:, self._menu]
        allowed = torch.from_numpy(mask & np.array(self._known))
        self._probabilities = logits.masked_fill(~allowed, -torch.inf).softmax(1).numpy()
        return self._probabilities.argmax(1).astype(np.int64)

    def explain(self) -> list[str]:
        """See `Agent.explain`: the likeliest actions with their probabilities."""
        reasons = []
        for row in self._probabilities:
            best = np.argsort(-row)[:3]
            reasons.append(", ".join(f"{self.space.actions[index]} {row[index]:.2f}" for index in best))
        return reasons

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Write the policy as safetensors and JSON, with a card that says how it was learned."""
        names = {"actions": list(self.space.actions), "features": list(self.space.features)}
        settings = {"kind": self.kind, "hidden": list(self.hidden), **names}
        save_policy(folder, self.net.state_dict(), settings, card)
