import math
import subprocess
from collections.abc import Callable

import numpy as np
import pytest

from llmo.errors import LlmoError
from llmo.evaluation.compare import difference
from llmo.mdp.instances import Instance
from llmo.mdp.population import Population, Step
from llmo.mdp.spec import EnvSpec, env_spec

SCALE = 0.25


@pytest.fixture(scope="module")
def spec() -> EnvSpec:
    return env_spec("llmo/LanguageModel-v0")


def instances(spec: EnvSpec, count: int, *, teacher: bool = False) -> list[Instance]:
    """The cheapest of some train instances on which everything is open."""
    found = [spec.draw("train", index, SCALE) for index in range(80)]
    whole = [i for i in found if not (i.closed or i.neutral) and (i.teacher or not teacher)]
    return sorted(whole, key=lambda instance: instance.budget)[:count]


def play(
    population: Population, slot: int, seed: int, others: tuple[int, ...] = (), known: frozenset[int] = frozenset()
) -> list[Step]:
    """A random episode in one slot, with new actions first, while others play theirs."""
    rngs = {place: np.random.default_rng([seed, place != slot, place * (place != slot)]) for place in (slot, *others)}
    steps, taken = [], {place: set(known) for place in rngs}
    while not population.episode(slot).ended:
        actions = {}
        for place, rng in rngs.items():
            if not population.episode(place).ended:
                allowed = np.flatnonzero(population.mask(place))
                actions[place] = int(rng.choice([a for a in allowed if a not in taken[place]] or allowed))
                taken[place].add(actions[place])
        steps.append(population.step(actions)[slot])
    return steps


@pytest.mark.parametrize(("replicas", "place"), [(2, 0), (2, 1), (5, 3)])
def test_an_episode_is_the_same_at_every_place(spec: EnvSpec, replicas: int, place: int) -> None:
    """Bit for bit, whatever the others are and do: among them are models of another shape."""
    tried: frozenset[int] = frozenset()
    for seed, cheap in enumerate(instances(spec, 2, teacher=True)):
        instance = spec.draw("train", cheap.index, 0.8)
        alone = Population(spec, executor="batched")
        alone.reset({0: instance})
        others = tuple(other for other in range(replicas) if other != place)
        population = Population(spec, replicas, executor="batched")
        population.reset({place: instance, **{o: spec.draw("train", 50 + o, SCALE) for o in others}})
        expected = play(alone, 0, seed, known=tried)
        found = play(population, place, seed, others, known=tried)
        assert difference(expected, found) == ""
        assert difference(alone.snapshot(0).row.tensors, population.snapshot(place).row.tensors) == ""
        assert alone.test_loss(0) == population.test_loss(place)
        tried |= {spec.menu.index(step.action) for step in found}
    assert len(tried) > 18


def test_the_two_executors_agree_within_rounding(spec: EnvSpec) -> None:
    (instance,) = instances(spec, 1)
    losses = []
    for executor in ("single", "batched"):
        population = Population(spec, executor=executor)
        population.reset({0: instance})
        steps = [population.step({0: spec.menu.index(name)})[0] for name in ("rate_default", "keep")]
        losses.append([step.measurement.validation_loss for step in steps])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_equal_episodes_in_another_process(
    spec: EnvSpec, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    program = f"""
import numpy as np
from llmo.mdp.population import Population
from llmo.mdp.spec import env_spec
spec = env_spec("llmo/LanguageModel-v0")
population = Population(spec, 2)
population.reset({{1: spec.draw("dev", 11, {SCALE}), 0: spec.draw("dev", 12, {SCALE})}})
rng = np.random.default_rng(3)
while not population.episode(1).ended:
    step = population.step({{1: rng.choice(np.flatnonzero(population.mask(1)))}})[1]
    print(step.measurement, step.reward, population.observe(1).tolist())
"""
    result = python("-c", program)
    assert result.stdout.count("Measurement(") >= 3, result.stderr
    here = Population(spec, 2)
    here.reset({1: spec.draw("dev", 11, SCALE), 0: spec.draw("dev", 12, SCALE)})
    rng, lines = np.random.default_rng(3), []
    while not here.episode(1).ended:
        step = here.step({1: rng.choice(np.flatnonzero(here.mask(1)))})[1]
        lines.append(f"{step.measurement} {step.reward} {here.observe(1).tolist()}")
    assert result.stdout.splitlines() == lines


def test_a_snapshot_can_go_on_in_another_slot_of_another_population(spec: EnvSpec) -> None:
    (instance,) = instances(spec, 1)
    one, other = Population(spec, 2), Population(spec, 4)
    one.reset({1: instance})
    one.step({1: spec.menu.index("adapter_lora")})
    moment = one.snapshot(1)
    other.restore(2, moment)
    assert difference(play(one, 1, 5), play(other, 2, 5)) == ""
    one.restore(1, moment)
    assert difference(moment, one.snapshot(1)) == ""


def test_a_rolled_back_run_has_not_got_its_budget_back(spec: EnvSpec) -> None:
    (instance,) = instances(spec, 1)
    population = Population(spec)
    population.reset({0: instance})
    rollback, faster = spec.menu.index("rollback"), spec.menu.index("rate_x5")
    while not population.mask(0)[rollback]:
        population.step({0: faster})
    run = population.run_of(0)
    before, cursor = run.states[0].spent, run.states[0].cursor
    best = population.episode(0).history.last.best_validation_loss
    spec.actions[rollback].apply(run, 0)
    assert (run.states[0].spent, run.states[0].cursor) == (before, cursor)
    (restored,) = run.evaluate([0])
    assert restored.validation_loss == best
    assert run.states[0].spent > before


def test_masked_actions_run_as_keep_and_are_counted(spec: EnvSpec) -> None:
    (instance,) = instances(spec, 1)
    lenient, keeping, strict = Population(spec), Population(spec), Population(spec, strict=True)
    for population in (lenient, keeping, strict):
        population.reset({0: instance})
    masked, keep = spec.menu.index("augment_off"), spec.menu.index("keep")
    taken, kept = lenient.step({0: masked})[0], keeping.step({0: keep})[0]
    assert (taken.action, taken.masked, kept.masked) == ("keep", True, False)
    assert (taken.measurement, taken.reward) == (kept.measurement, kept.reward)
    assert (lenient.episode(0).masked, keeping.episode(0).masked) == (1, 0)
    before = strict.snapshot(0)
    with pytest.raises(LlmoError, match="action 'augment_off'"):
        strict.step({0: masked})
    assert difference(before, strict.snapshot(0)) == ""


def test_closed_actions_and_hidden_features(spec: EnvSpec) -> None:
    found = [spec.draw("train", index, SCALE) for index in range(200)]
    closed = next(instance for instance in found if "adapter" in instance.closed)
    hidden = next(instance for instance in found if "sources" in instance.neutral)
    population = Population(spec, 2)
    population.reset({0: closed, 1: hidden})
    names = [name for name, allowed in zip(spec.menu, population.mask(0)) if allowed]
    assert "keep" in names and not any(name.startswith("adapter") for name in names)
    assert "adapter_lora" in [name for name, allowed in zip(spec.menu, population.mask(1)) if allowed]
    population.step({1: spec.menu.index("keep")})
    seen = dict(zip(spec.space.features, population.observe(1)))
    assert not any(value for name, value in seen.items() if name.startswith("source_"))
    assert seen["momentum_cosine"] != 0


def test_a_diverged_run_ends_with_a_finite_penalty(spec: EnvSpec) -> None:
    first, second = instances(spec, 2)
    population = Population(spec, 2)
    population.reset({0: first, 1: second}, {0: lambda spent: 1e60 if spent > 0.4 else 1.0})
    keep, rewards = spec.menu.index("keep"), []
    while not population.episode(0).ended:
        going = [slot for slot in (0, 1) if not population.episode(slot).ended]
        rewards.append(population.step(dict.fromkeys(going, keep))[0].reward)
    last = population.episode(0).history.last
    assert last.diverged and last.spent < 0.9
    assert rewards[-1] == -2.0
    assert math.isfinite(last.best_validation_loss) and math.isfinite(population.test_loss(0))
    assert np.isfinite(population.observe(0)).all()
    with pytest.raises(LlmoError, match="after the end"):
        population.step({0: keep})


def test_a_step_is_taken_by_all_or_none(spec: EnvSpec) -> None:
    population = Population(spec, 2)
    population.reset(dict(enumerate(instances(spec, 2))))
    before = [population.snapshot(slot) for slot in (0, 1)]
    with pytest.raises(LlmoError, match="action 99"):
        population.step({0: 0, 1: 99})
    assert difference(before, [population.snapshot(slot) for slot in (0, 1)]) == ""
