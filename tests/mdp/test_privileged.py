"""What only a critic sees: how the teacher fared on the same instance, and what the instance holds."""

from dataclasses import replace

import numpy as np
import pytest

from llmo import catalog
from llmo.catalog.tuned import tuned_parameters
from llmo.diagnostics.features import NAMES
from llmo.evaluation.demonstrations import demonstrate
from llmo.evaluation.process_env import ProcessVecEnv
from llmo.evaluation.workers import HERE
from llmo.mdp.population import Population
from llmo.mdp.privileged import PRIVILEGED, privileged
from llmo.mdp.reference import Curve
from llmo.mdp.sb3_env import PopulationVecEnv
from llmo.mdp.spec import env_spec

ENV = "llmo/LanguageModel-v0"


@pytest.fixture(scope="module")
def curves() -> dict[int, Curve]:
    spec = env_spec(ENV)
    cheapest = sorted(range(60), key=lambda index: spec.draw("train", index, 1.0).budget)[:2]
    return demonstrate(ENV, "scripted", sorted(cheapest), HERE).curves


def test_the_teacher_gets_nothing_against_itself(curves: dict[int, Curve]) -> None:
    env = PopulationVecEnv(ENV, 2, reward="relative", curves=curves)
    teacher = catalog.make_agent("scripted", **tuned_parameters("scripted", ENV))
    teacher.bind(env_spec(ENV).space)
    teacher.reset([0, 0])
    observations, start, ended = env.reset(), np.ones(2, bool), 0
    assert observations.shape == (2, len(NAMES) + len(PRIVILEGED))
    while ended < 3:
        assert {info["instance"] for info in env.reset_infos} <= curves.keys()
        ahead = observations[:, len(NAMES) + PRIVILEGED.index("ahead_now")]
        assert ahead == pytest.approx([0, 0], abs=1e-4)
        to_go = observations[:, len(NAMES) + PRIVILEGED.index("reference_to_go")]
        assert all(to_go >= 0)
        actions = teacher.act(observations[:, : len(NAMES)], env.action_masks(), start)
        observations, rewards, start, infos = env.step(actions)
        assert rewards == pytest.approx([0, 0], abs=1e-4)
        ended += int(start.sum())
        for info in infos:
            if "terminal_observation" in info:
                assert info["terminal_observation"].shape == observations.shape[1:]


def test_it_tells_the_order_of_the_sources_as_it_is_now() -> None:
    spec = env_spec(ENV)
    instance = next(one for one in (spec.draw("train", index, 1.0) for index in range(99)) if len(one.changes) == 2)
    population = Population(spec)
    population.reset({0: instance})
    measurement = population.episode(0).history.last
    curve = Curve((0.0, 1.0), (2.0, 1.0))
    for share, order in ((0.0, (0, 1, 2)), *instance.changes):
        now = replace(measurement, spent=share + 1e-6)
        found = dict(zip(PRIVILEGED, privileged(instance, now, curve), strict=True))
        noise = [found[f"noise_{slot}"] for slot in (1, 2, 3)]
        assert noise == pytest.approx([instance.sources[role].noise for role in order])
        assert found["reference_to_go"] == pytest.approx(min(5, 10 * (1 - share)), abs=1e-3)
    assert found["next_change"] == pytest.approx(1 - share, abs=1e-4)


def test_costly_instances_are_played_less_often(curves: dict[int, Curve]) -> None:
    """In inverse proportion to their intervals, as a cheap and a dear instance show in 60 slots."""
    spec, (curve, _) = env_spec(ENV), curves.values()
    cheap, dear = (
        next(index for index in range(200) if wanted(spec.draw("train", index, 1.0).interval))
        for wanted in (lambda interval: interval <= 9, lambda interval: interval >= 36)
    )
    env = PopulationVecEnv(ENV, 60, reward="relative", curves={cheap: curve, dear: curve})
    env.reset()
    played = [info["instance"] for info in env.reset_infos]
    ratio = spec.draw("train", dear, 1.0).interval / spec.draw("train", cheap, 1.0).interval
    assert played.count(cheap) == pytest.approx(60 * ratio / (1 + ratio), abs=6)
    assert played.count(dear) > 0


def test_workers_show_the_same(curves: dict[int, Curve]) -> None:
    here = PopulationVecEnv(ENV, 2, reward="relative", curves=curves)
    there = ProcessVecEnv(ENV, 2, 2, reward="relative", curves=curves)
    try:
        assert np.array_equal(here.reset(), there.reset())
        for action in (9, 4, 13):
            actions = np.full(2, action)
            one, other = here.step(actions), there.step(actions)
            assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    finally:
        there.close()
