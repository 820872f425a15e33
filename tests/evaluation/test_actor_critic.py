"""The learned policy's networks do not mind in which order the sources come."""

import itertools

import numpy as np
import torch

from llmo.evaluation.actor_critic import Actor, Orders
from llmo.mdp.spec import env_spec

SPACE = env_spec("llmo/LanguageModel-v1").space


def renamed(names: tuple[str, ...], slots: tuple[int, ...]) -> list[int]:
    """Where each name's value is found after slot k has become slot `slots[k - 1]`; by hand, without patterns."""
    found = []
    for name in names:
        for old in (1, 2, 3):
            if f"source_{old}" in name:
                name = name.replace(f"source_{old}", f"source_{slots[old - 1]}")
                break
        found.append(names.index(name))
    return found


def test_other_order_same_probabilities() -> None:
    torch.manual_seed(0)
    actor = Actor(SPACE.features, SPACE.actions, (16, 16))
    observation = torch.randn(5, len(SPACE.features))
    logits = actor(observation)
    moved = 0
    for slots in itertools.permutations((1, 2, 3)):
        features, actions = renamed(SPACE.features, slots), renamed(SPACE.actions, slots)
        other = torch.empty_like(observation)
        other[:, features] = observation
        expected = torch.empty_like(logits)
        expected[:, actions] = logits
        torch.testing.assert_close(actor(other), expected, atol=1e-6, rtol=1e-5)
        moved += features != list(range(len(features)))
    assert moved == 5
    sources = [SPACE.action(f"source_{slot}") for slot in (1, 2, 3)]
    assert np.ptp(logits[0, sources].detach().numpy()) > 1e-3


def test_names_without_slots_have_one_order() -> None:
    orders = Orders(("rate", "action_1_source"), ("keep", "source_uniform"))
    assert orders.seen.tolist() == [[0, 1]] and orders.back.tolist() == [[0, 1]]
