"""The base of agents that play a network: which policy it is, how it is loaded, and what is likeliest.

Training is left to subclasses; a policy is two plain files, see `policy_file.py`.
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


class NetworkAgent(LearningAgent):
    """Takes the allowed action that its network finds likeliest to be best.

    Args:
        policy: Folder that `llmo train` wrote; by default that of the shipped policy.

    Attributes:
        hidden: Widths of the hidden layers of what is learned next.
        net: The network; set by `bind` and by `learn`.
    """

    hidden: tuple[int, ...]
    net: nn.Module

    def __init__(self, policy: str = "") -> None:
        self.policy = policy

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
            LlmoError: There is none in the folder, or it was learned with fewer actions or other features.
        """
        super().bind(space)
        folder = self.policy or str(self.shipped or "")
        if not folder:
            raise LlmoError("policy", "", "a folder that `llmo train` wrote, given by --policy")
        stored = load_policy(folder)
        actions, features, hidden = (stored.settings.get(name, ()) for name in ("actions", "features", "hidden"))
        if features != list(space.features):
            raise LlmoError("policy", folder, "one learned with the features of this version")
        if not (isinstance(actions, list) and all(action in actions for action in space.actions)):
            raise LlmoError("policy", folder, "one learned with all actions of the menu")
        if not (isinstance(hidden, list) and 0 < len(hidden) <= 8 and all(width in range(1, 4097) for width in hidden)):
            raise LlmoError("hidden of policy", hidden, "a list of 1 to 8 widths from 1 to 4096")
        self.net = self.network(features, actions, hidden)
        self._menu = [actions.index(action) for action in space.actions]
        try:
            self.net.load_state_dict(stored.tensors)
        except RuntimeError as error:
            raise LlmoError("policy", folder, "one whose weights fit its settings") from error

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`."""
        import torch

        with torch.no_grad():
            logits = self.logits(torch.from_numpy(observation), episode_start)[:, self._menu]
        self._probabilities = logits.masked_fill(~torch.from_numpy(mask), -torch.inf).softmax(1).numpy()
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
        save_policy(folder, self.net.state_dict(), {"hidden": list(self.hidden), **names}, card)
