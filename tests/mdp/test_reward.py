import math
from dataclasses import replace

import numpy as np
import pytest

from llmo import catalog
from llmo.catalog.tuned import reference_rule, tuned_parameters
from llmo.errors import LlmoError
from llmo.mdp.population import Population
from llmo.mdp.reference import ReferenceCurves
from llmo.mdp.reward import DIVERGED, REWARDS, reward, valid_reward
from llmo.mdp.spec import EnvSpec, env_spec

SCALE = 0.3


@pytest.fixture(scope="module")
def spec() -> EnvSpec:
    return env_spec("llmo/LanguageModel-v0")


def rewards(spec: EnvSpec, name: str, index: int) -> tuple[list[float], Population]:
    """Those of one random episode, the same for every reward."""
    population = Population(spec, reward=name)
    population.reset({0: spec.draw("dev", index, SCALE)})
    rng, found = np.random.default_rng(index), []
    while not population.episode(0).ended:
        found.append(population.step({0: rng.choice(np.flatnonzero(population.mask(0)))})[0].reward)
    return found, population


@pytest.mark.parametrize("index", [2, 3])
def test_gains_add_up_to_the_whole_gain_and_final_is_their_sum(spec: EnvSpec, index: int) -> None:
    gains, population = rewards(spec, "gain", index)
    measured = population.episode(0).history.measurements
    whole = 10 * math.log(measured[0].validation_loss / measured[-1].best_validation_loss)
    assert math.fsum(gains) == pytest.approx(whole)
    final, _ = rewards(spec, "final", index)
    assert final[:-1] == [0.0] * (len(gains) - 1)
    assert final[-1] == pytest.approx(math.fsum(gains))


def test_relative_is_the_gain_less_that_of_the_reference(spec: EnvSpec) -> None:
    instance = spec.draw("dev", 2, SCALE)
    gains, _ = rewards(spec, "gain", 2)
    relative, _ = rewards(spec, "relative", 2)
    reference = ReferenceCurves(spec.name, Population(spec).keep_to_the_end, 1)
    reference.prepare([instance])
    assert math.fsum(relative) == pytest.approx(math.fsum(gains) - reference.gain(instance, 0.0, 1.0))


@pytest.mark.parametrize("executor", ["single", "batched"])
def test_the_reference_itself_gets_nothing(spec: EnvSpec, executor: str) -> None:
    instance = spec.draw("dev", 5, SCALE)
    population = Population(spec, reward="relative", executor=executor)
    rule = reference_rule(spec.name)
    schedules = catalog.make_agent(rule, **tuned_parameters(rule, spec.name)).schedules([instance.start])
    population.reset({0: instance}, {0: schedules[0]})
    found = []
    while not population.episode(0).ended:
        found.append(population.step({0: spec.menu.index("keep")})[0].reward)
    assert found == pytest.approx([0.0] * len(found), abs=1e-9)


@pytest.mark.parametrize("name", REWARDS)
def test_diverging_costs_a_finite_penalty_and_never_pays(spec: EnvSpec, name: str) -> None:
    _, population = rewards(spec, "gain", 2)
    first, after = population.episode(0).history.measurements[:2]
    worse = replace(after, validation_loss=math.inf, best_validation_loss=first.best_validation_loss, diverged=True)
    assert reward(name, first, first, worse, True, 0.0) == DIVERGED
    assert reward(name, first, first, worse, True, 1.0) == DIVERGED - (name == "relative")


def test_who_diverges_early_is_charged_what_the_reference_still_gains(spec: EnvSpec) -> None:
    instance = spec.draw("dev", 5, SCALE)
    population = Population(spec, reward="relative")
    population.reset({0: instance}, {0: lambda spent: 1e60})
    step = population.step({0: spec.menu.index("keep")})[0]
    reference = ReferenceCurves(spec.name, Population(spec).keep_to_the_end, 1)
    reference.prepare([instance])
    before = population.episode(0).history.measurements[0].spent
    assert step.terminated and step.measurement.spent < 0.9
    assert step.reward == pytest.approx(DIVERGED - reference.gain(instance, before, 1.0))


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(LlmoError, match="did you mean 'gain'"):
        valid_reward("gian")
