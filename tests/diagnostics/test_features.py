import dataclasses
import math

import numpy as np
import pytest

from llmo.actions.menu import MENU, WHOLE_MENU
from llmo.diagnostics.features import FAMILIES, FEATURES, GROUPS, INDEX, LIMIT, MORE_FAMILIES, NAMES, family, observe
from llmo.diagnostics.history import History
from llmo.hyperparameters import Hyperparameters
from llmo.measurement import Measurement

FRESH = Measurement(
    step=0, optimizer_steps=0, spent=0.05, cost=1.0, validation_loss=6.0, best_validation_loss=6.0, train_loss=math.nan,
    source_loss=(math.nan,) * 3, source_share=(0.0,) * 3, source_tokens=(1e3, 1e4, 1e5), mixture=(1 / 3,) * 3,
    gradient_norm=0.0, clipped=0.0, momentum_cosine=0.0, gradient_cosine=0.0, update_ratio=0.0, learning_rate=0.0,
    teacher_loss=math.nan, diverged=False,
)  # fmt: skip


def measured(**changes: object) -> Measurement:
    """A measurement after some training."""
    trained = {
        "step": 1, "optimizer_steps": 8, "train_loss": 5.0, "source_loss": (5.0, 6.0, 7.0), "gradient_norm": 2.0,
        "source_share": (0.4, 0.3, 0.3), "update_ratio": 0.01, "learning_rate": 0.02, "gradient_cosine": 0.5,
    }  # fmt: skip
    return dataclasses.replace(FRESH, **(trained | changes))


def history(*measurements: Measurement, **changes: object) -> History:
    found = History("scratch", 512, 0.02, Hyperparameters(learning_rate=0.02), measurements=list(measurements))
    return dataclasses.replace(found, **changes)


def value(name: str, of: History) -> float:
    return float(observe(of)[INDEX[name]])


def test_the_list_is_named_and_documented() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(observe(history(FRESH)))
    assert all(feature.meaning and "\n" not in feature.meaning for feature in FEATURES)
    wanted = """
        loss_level gain_1 gain_slope train_gap best_gap source_3_gap source_3_weight source_3_age source_3_credit
        norm_trend momentum_cosine update_ratio gradient_noise rate base_rate regularisation teacher_gap lora
        distillation_teacher augmentation_off action_1_keep action_2_keep spent
    """
    assert set(wanted.split()) <= set(NAMES)


def test_every_action_belongs_to_exactly_one_family() -> None:
    assert {sum(name.startswith(prefix) for prefix in FAMILIES) for name in MENU} == {1}
    assert {family(name) for name in MENU} == set(FAMILIES) - {"other"}
    assert family("something_else") == "other"
    # What only the whole menu has belongs to a family of its own, or to one of the core.
    for name in set(WHOLE_MENU) - set(MENU):
        assert sum(name.startswith(f"{prefix}_") for prefix in MORE_FAMILIES) == (family(name) == "other"), name


def test_the_last_two_actions_are_remembered() -> None:
    seen = history(FRESH, measured(), measured(), actions=["keep", "rate_x0.2", "source_tracking"])
    on = [name for name in NAMES if name.startswith("action_") and value(name, seen)]
    assert on == ["action_1_source_tracking", "action_2_rate_x0"]


@pytest.mark.parametrize("seed", range(20))
def test_never_nan_and_always_in_the_space(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wild = [0.0, 1e-30, 1.0, 6.0, 1e30, math.inf, math.nan, -1.0]

    def wild_measurement() -> Measurement:
        fields = {}
        for field in dataclasses.fields(Measurement):
            old = getattr(FRESH, field.name)
            fields[field.name] = (
                tuple(map(float, rng.choice(wild, 3))) if isinstance(old, tuple) else float(rng.choice(wild))
            )
        return Measurement(**(fields | {"step": 1, "optimizer_steps": 2, "diverged": bool(rng.integers(2))}))

    observation = observe(history(*(wild_measurement() for _ in range(1 + seed % 4))))
    assert observation.dtype == np.float32
    assert np.isfinite(observation).all()
    assert (abs(observation) <= LIMIT).all()


def test_groups_that_a_run_cannot_see_are_zero() -> None:
    seen = history(FRESH, measured(teacher_loss=4.0), measured(teacher_loss=4.0, validation_loss=5.5))
    for group in GROUPS:
        hidden = observe(dataclasses.replace(seen, neutral=frozenset([group])))
        inside = np.array([feature.group == group for feature in FEATURES])
        assert not hidden[inside].any()
        np.testing.assert_array_equal(hidden[~inside], observe(seen)[~inside])


def test_a_uniform_guess_has_loss_level_zero() -> None:
    assert value("loss_level", history(measured(validation_loss=math.log(512)))) == pytest.approx(0)
    assert value("loss_level", history(measured(validation_loss=math.log(512) / math.e))) == pytest.approx(-2)


def test_gains_are_logarithms_of_ratios() -> None:
    losses = (6.0, 5.0, 4.5, 4.6)
    run = history(
        *(measured(validation_loss=loss, best_validation_loss=min(losses[: i + 1])) for i, loss in enumerate(losses))
    )
    assert value("gain_1", run) == pytest.approx(10 * math.log(4.5 / 4.6))
    assert value("gain_2", run) == pytest.approx(10 * math.log(5.0 / 4.6))
    assert value("gain_4", run) == pytest.approx(10 * math.log(6.0 / 4.6))
    assert value("gain_total", run) == pytest.approx(3 * math.log(6.0 / 4.6))
    assert value("best_gap", run) == pytest.approx(20 * math.log(4.6 / 4.5))
    assert value("stalled", run) == pytest.approx(2 / 4)


def test_no_scale_of_losses_norms_or_rates_shows() -> None:
    def run(loss: float, norm: float, rate: float) -> History:
        steps = [
            measured(
                validation_loss=loss * (6 - i),
                best_validation_loss=loss * (6 - i),
                train_loss=loss * (5 - i),
                source_loss=(loss * 5, loss * 6, loss * (7 - i)),
                teacher_loss=loss * 4,
                gradient_norm=norm * (1 + i),
                learning_rate=rate * 0.02,
            )
            for i in range(4)
        ]
        return history(*steps, default_rate=rate * 0.02, hyperparameters=Hyperparameters(learning_rate=rate * 0.03))

    one, other = observe(run(1, 1, 1)), observe(run(0.5, 30, 7))
    same = np.array([name != "loss_level" for name in NAMES])
    np.testing.assert_allclose(one[same], other[same], atol=1e-5)


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0, 100.0])
def test_gradient_noise_is_noise_over_signal(ratio: float) -> None:
    rng = np.random.default_rng(0)
    size = 1_000_000
    signal = rng.standard_normal(size)
    first, second = (signal + math.sqrt(ratio) * rng.standard_normal(size) for _ in range(2))
    cosine = float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    run = history(FRESH, measured(gradient_cosine=cosine))
    assert value("gradient_noise", run) == pytest.approx(math.log10(ratio), abs=0.1)


def test_the_source_that_brought_the_gains_has_the_credit() -> None:
    good, bad = (0.05, 0.9, 0.05), (0.9, 0.05, 0.05)
    run = history(
        FRESH,
        measured(validation_loss=6.0, source_share=bad),
        measured(validation_loss=5.0, source_share=good),
        measured(validation_loss=5.0, source_share=bad),
        measured(validation_loss=4.5, source_share=good),
    )
    credits = [value(f"source_{slot}_credit", run) for slot in (1, 2, 3)]
    assert credits[1] > 0.5 > 0 > credits[0]
    assert credits[2] == pytest.approx(0, abs=0.3)
    assert [value(f"source_{slot}_age", run) for slot in (1, 2, 3)] == [1 / 8, 0, 2]


def test_ranks_of_sources_go_from_nearest_to_farthest() -> None:
    run = history(measured(validation_loss=5.1, source_loss=(7.0, 5.0, 6.0)))
    assert [value(f"source_{slot}_gap_rank", run) for slot in (1, 2, 3)] == [1, -1, 0]
