"""Our statistics against rliable's (Agarwal et al. 2021), where both estimate the same thing.

rliable needs an older pandas than other libraries do, so this runs in an environment of its own: `make rliable`.
"""

import numpy as np
import pytest

rliable = pytest.importorskip("rliable", reason="runs in an environment of its own: make rliable")

from rliable import library, metrics  # noqa: E402

from llmo.evaluation.statistics import (  # noqa: E402
    Bootstrap,
    iqm,
    performance_profile,
    probability_of_improvement,
    resampled_mean,
)

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.standard_t(3, 200)
"""One score an instance, with heavy tails: to rliable, the runs of one task."""


@pytest.mark.parametrize("size", [8, 9, 10, 11, 200])
def test_interquartile_mean(size: int) -> None:
    assert iqm(SCORES[:size]) == pytest.approx(metrics.aggregate_iqm(SCORES[:size, None]), rel=1e-12)


@pytest.mark.parametrize(
    ("statistic", "theirs"), [(None, metrics.aggregate_iqm), (resampled_mean, metrics.aggregate_mean)]
)
def test_intervals_of_instances_that_stand_each_for_itself(statistic: object, theirs: object) -> None:
    """Both resample instances with replacement and take percentiles; what differs is the luck of 2,000 draws."""
    random = np.random.RandomState(0)
    bootstrap = Bootstrap([str(index) for index in range(len(SCORES))])
    ours = bootstrap.interval(SCORES[None], *([statistic] if statistic else []))
    _, intervals = library.get_interval_estimates(
        {"agent": SCORES[:, None]},
        lambda scores: np.array([theirs(scores)]),
        reps=20_000,
        random_state=random,
    )
    low, high = intervals["agent"][:, 0]
    width = high - low
    assert ours == pytest.approx((low, high), abs=0.06 * width)


def test_probability_of_improvement_with_ties() -> None:
    ours, theirs = RANDOM.integers(0, 6, (5, 40)) / 2, RANDOM.integers(0, 6, (3, 40)) / 2
    # Ours are losses, so less is better; theirs are scores.
    expected = metrics.probability_of_improvement(-ours, -theirs)
    assert probability_of_improvement(ours, theirs) == pytest.approx(expected, rel=1e-12)


def test_performance_profile() -> None:
    thresholds = np.linspace(-3, 3, 25)
    profiles, _ = library.create_performance_profile({"agent": SCORES[:, None]}, thresholds, reps=50)
    np.testing.assert_allclose(performance_profile(SCORES, thresholds), profiles["agent"], rtol=1e-12)
