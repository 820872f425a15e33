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
    return sorted(sorted(range(60), key=lambda index: spec.draw("train", index, 1.0).budget)[:count])


def test_the_moves_give_the_returns_when_they_are_made_again() -> None:
    indices = cheapest(3)
    moves = demonstrate(ENV, "scripted", indices, HERE, replicas=2)
    spread = demonstrate(ENV, "scripted", indices, Workers("processes", 1), replicas=3)
    for name in ("observations", "masks", "actions", "starts"):
        assert np.array_equal(getattr(moves, name), getattr(spread, name))
    assert moves.curves == spread.curves and list(moves.curves) == indices

    spec = env_spec(ENV)
    population = Population(spec, 1, executor="batched")
    place = 0
    for index in indices:
        population.reset({0: spec.draw("train", index, 1.0)})
        rewards = []
        assert moves.starts[place]
        while not population.episode(0).ended:
            assert np.array_equal(population.observe(0), moves.observations[place])
            assert np.array_equal(population.mask(0), moves.masks[place])
            assert moves.masks[place, moves.actions[place]]
            rewards.append(population.step({0: moves.actions[place]})[0].reward)
            place += 1
        assert sum(rewards) == pytest.approx(moves.curves[index].gain(0.0, 1.0), abs=1e-9)
    assert place == len(moves.actions) and moves.starts.sum() == len(indices)


NO_TEACHERS = ("cosine", "plateau", "search_1", "ppo", "static", "pbt", "virtual_best", "prodigy")


@pytest.mark.parametrize("teacher", NO_TEACHERS)
def test_who_does_not_play_by_the_menu_is_no_teacher(teacher: str) -> None:
    with pytest.raises(LlmoError, match="teacher"):
        demonstrate(ENV, teacher, [0], HERE)
