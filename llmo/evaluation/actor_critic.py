"""The networks of the learned policy: a critic that sees more than the actor, and neither minds the sources' order.

Sources are anonymous and come in any order, so a policy for one order is one for all. Both networks are averaged over
the orders (Yarotsky 2022, "Universal approximations of invariant maps by neural networks"): what is learned about one
slot is learned about all, from a sixth of the episodes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import torch
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import Tensor, nn

_SLOT = re.compile(r"(source|noise|off_domain)_([123])")


class Orders(nn.Module):
    """The orders of the source slots, G of them: 6, or 1 where no name has a slot.

    Args:
        features: Names of the features; those that are about a slot have its number in them.
        actions: Names of the actions, likewise.
    """

    def __init__(self, features: Sequence[str], actions: Sequence[str]) -> None:
        super().__init__()
        orders = [(_places(features, slots), _places(actions, slots)) for slots in itertools.permutations("123")]
        seen, chosen = zip(*dict.fromkeys(orders), strict=True)
        self.seen: Tensor
        self.back: Tensor
        self.register_buffer("seen", torch.tensor(seen), persistent=False)
        self.register_buffer("back", torch.tensor(chosen).argsort(1), persistent=False)

    def of(self, observations: Tensor, count: int) -> Tensor:
        """The first features of observations [n, F] in all orders, [n, G, count]."""
        return observations[:, self.seen[:, :count]]

    def mean(self, logits: Tensor) -> Tensor:
        """Logits of the actions in all orders, [n, G, A], brought back to the first and averaged, [n, A]."""
        return logits.gather(2, self.back.expand(len(logits), -1, -1)).mean(1)


def _places(names: Sequence[str], slots: Sequence[str]) -> tuple[int, ...]:
    """Where each name's value comes from when slot 1 is what was `slots[0]`, and so on."""
    index = {name: place for place, name in enumerate(names)}
    return tuple(index[_SLOT.sub(lambda m: f"{m[1]}_{slots[int(m[2]) - 1]}", name)] for name in names)


def hidden_layers(inputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Linear layers of some widths, each with tanh."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers)


class Actor(nn.Module):
    """Features [n, F] to logits of the actions [n, A].

    Args:
        features: Their names.
        actions: Their names.
        hidden: Widths of the layers, tanh.
    """

    def __init__(self, features: Sequence[str], actions: Sequence[str], hidden: Sequence[int]) -> None:
        super().__init__()
        self.features, self.actions = tuple(features), tuple(actions)
        self.orders = Orders(features, actions)
        self.hidden, self.head = hidden_layers(len(features), hidden), nn.Linear(hidden[-1], len(actions))

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return self.orders.mean(self.head(self.hidden(self.orders.of(features, features.shape[1]))))


class Towers(nn.Module):
    """Hidden layers of actor and critic, apart: the actor reads the first features only, the critic all of them.

    Args:
        orders: Of the slots.
        features: What the critic reads.
        seen: How many of them the actor reads.
        hidden: Widths of the layers, tanh.
    """

    def __init__(self, orders: Orders, features: int, seen: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.orders, self.features, self.seen = orders, features, seen
        self.policy_net, self.value_net = hidden_layers(seen, hidden), hidden_layers(features, hidden)
        self.latent_dim_pi = self.latent_dim_vf = hidden[-1]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of actor and critic."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        """Of the actor, in all orders: [n, G, hidden]."""
        result: Tensor = self.policy_net(self.orders.of(features, self.seen))
        return result

    def forward_critic(self, features: Tensor) -> Tensor:
        """Of the critic, [n, hidden]; what reads it is linear, so the mean may be taken here."""
        result: Tensor = self.value_net(self.orders.of(features, self.features)).mean(1)
        return result


class AsymmetricPolicy(MaskableActorCriticPolicy):
    """Masked actions; the critic also sees what the actor must not (Pinto et al. 2018).

    Args:
        features: Names of all that an observation has.
        seen: How many of them, the first, the actor reads.
        actions: Names of the actions.
    """

    def __init__(
        self, *arguments: Any, features: Sequence[str], seen: int, actions: Sequence[str], **parameters: Any
    ) -> None:
        self.names, self.seen, self.actions = features, seen, actions
        super().__init__(*arguments, **parameters)

    def _build_mlp_extractor(self) -> None:
        widths: Any = self.net_arch
        orders = Orders(self.names, self.actions)
        # SB3 expects an `MlpExtractor`, and asks for nothing that `Towers` has not.
        self.mlp_extractor: Any = Towers(orders, self.features_dim, self.seen, widths)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> MaskableDistribution:
        logits = self.mlp_extractor.orders.mean(self.action_net(latent_pi))
        return self.action_dist.proba_distribution(action_logits=logits)

    def begin_as(self, actor: Actor) -> None:
        """Act as another actor does, of the same widths: what it does not see or choose has no weight yet.

        Args:
            actor: It sees nothing that is not seen here; of what it chooses among, the menu may lack some.
        """
        seen = [self.names.index(name) for name in actor.features]
        shared = [action for action in self.actions if action in actor.actions]
        here, there = ([names.index(action) for action in shared] for names in (self.actions, actor.actions))
        first = "0.weight"
        layers = {**actor.hidden.state_dict(), first: torch.zeros_like(self.mlp_extractor.policy_net[0].weight)}
        layers[first][:, seen] = actor.hidden.state_dict()[first]
        self.mlp_extractor.policy_net.load_state_dict(layers)
        with torch.no_grad():
            for mine, theirs in zip(self.action_net.parameters(), actor.head.parameters(), strict=True):
                mine.zero_()
                mine[here] = theirs[there]

    def actor(self) -> Actor:
        """A copy of what acts."""
        actor = Actor(self.names[: self.seen], self.actions, self.net_arch)  # type: ignore[arg-type]
        actor.hidden.load_state_dict(self.mlp_extractor.policy_net.state_dict())
        actor.head.load_state_dict(self.action_net.state_dict())
        return actor
