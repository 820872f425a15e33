"""Counted random numbers: uniform, independent, and the same for a replica wherever it stands."""

import numpy as np

from llmo.engine.streams import DROPOUT, NOISE, SOURCE, WINDOW, uniform


def test_uniform_in_mean_spread_and_range() -> None:
    u = uniform(np.array([3], np.uint64), np.array([5]), SOURCE, 100_000)[0]
    assert 0 <= u.min() and u.max() < 1
    # Five standard errors of the mean and of the share below each tenth.
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * len(u))
    shares = np.histogram(u, 10, (0, 1))[0] / len(u)
    assert np.abs(shares - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / len(u))


def test_neighbouring_seeds_steps_streams_and_places_do_not_correlate() -> None:
    n = 50_000
    seeds, steps = np.array([7, 8, 7, 7], np.uint64), np.array([1, 1, 2, 1])
    u = uniform(seeds, steps, WINDOW, n)
    series = [*u[:3], uniform(seeds[:1], steps[:1], NOISE, n)[0], np.roll(u[0], 1)]
    correlations = np.corrcoef(series) - np.eye(len(series))
    assert np.abs(correlations).max() < 5 / np.sqrt(n)
    assert np.array_equal(u[0], u[3])


def test_a_row_does_not_depend_on_the_others_or_on_how_many_numbers_are_drawn() -> None:
    seeds, steps = np.arange(9, dtype=np.uint64) * 977, np.arange(9) * 3
    together = uniform(seeds, steps, DROPOUT, 64)
    for row in range(9):
        alone = uniform(seeds[row : row + 1], steps[row : row + 1], DROPOUT, 32)
        assert np.array_equal(together[row, :32], alone[0])
