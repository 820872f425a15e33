"""What a teacher shows can be played again move by move, and does not depend on how it was spread."""

import numpy as np
import pytest

from llmo.errors import LlmoError
from llmo.evaluation.demonstrations import demonstrate
from llmo.evaluation.workers import HERE, Workers
from llmo.mdp.population import Population
from llmo.mdp.spec import env_spec

ENV = "llmo/LanguageModel-v0"


def cheapest(count: int) -> list[int]:
    """Train instances with the smallest budgets."""
    spec = env_spec(ENV)
    return sorted(range(60), key=lambda index: spec.draw("train", index, 1.0).budget)[:count]


def test_the_moves_give_the_returns_when_they_are_made_again() -> None:
    indices = cheapest(3)
    moves = demonstrate(ENV, "scripted", indices, 0.2, seed=0, workers=HERE, replicas=2)
    spread = demonstrate(ENV, "scripted", indices, 0.2, seed=0, workers=Workers("processes", 1), replicas=3)
    for name in ("observations", "masks", "actions", "returns", "totals"):
        assert np.array_equal(getattr(moves, name), getattr(spread, name))

    spec = env_spec(ENV)
    population = Population(spec, 1, executor="batched")
    place = 0
    for index, total in zip(indices, moves.totals, strict=True):
        population.reset({0: spec.draw("train", index, 1.0)})
        rewards = []
        first = place
        while not population.episode(0).ended:
            assert np.array_equal(population.observe(0), moves.observations[place])
            assert np.array_equal(population.mask(0), moves.masks[place])
            assert moves.masks[place, moves.actions[place]]
            rewards.append(population.step({0: moves.actions[place]})[0].reward)
            place += 1
        assert sum(rewards) == pytest.approx(total, abs=1e-5)
        assert moves.returns[first:place] == pytest.approx(np.cumsum(rewards[::-1])[::-1], abs=1e-5)
    assert place == len(moves.actions)


def test_a_share_of_the_moves_is_random() -> None:
    indices = cheapest(2)
    pure, mixed = (demonstrate(ENV, "scripted", indices, share, seed=0, workers=HERE) for share in (0.0, 1.0))
    assert len(set(pure.actions.tolist())) < 8 < len(set(mixed.actions.tolist()))


@pytest.mark.parametrize("teacher", ["cosine", "plateau", "search_1", "ppo"])
def test_who_does_not_play_by_the_menu_is_no_teacher(teacher: str) -> None:
    with pytest.raises(LlmoError, match="teacher"):
        demonstrate(ENV, teacher, [0], 0.1, seed=0, workers=HERE)
