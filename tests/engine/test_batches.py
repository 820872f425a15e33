"""Mixing, windows and corruption of training batches."""

import numpy as np
import pytest

from llmo.engine.augment import SPAN_SHARE, TOKEN_NOISE, corrupt
from llmo.engine.batches import FLOOR, draw_batches, fixed_mixture, tracking_mixture
from llmo.tasks.causal_lm import CausalLM

WINDOWS = np.zeros((1, 9), np.int64)


def planted_task() -> CausalLM:
    """Three materials that tell where each token comes from: 0.., 1000.., 2000..."""
    return CausalLM(tuple((1000 * i + np.arange(50)).astype(np.int16) for i in range(3)), WINDOWS, WINDOWS)


def test_fixed_mixtures_sum_to_one_and_keep_a_floor() -> None:
    assert fixed_mixture("uniform") == pytest.approx([1 / 3] * 3)
    assert fixed_mixture("source_2") == pytest.approx([FLOOR, 1 - 2 * FLOOR, FLOOR])


def test_tracking_goes_to_the_source_whose_loss_is_nearest_and_keeps_a_floor() -> None:
    mixture = np.full(3, 1 / 3)
    for _ in range(40):
        mixture = tracking_mixture(mixture, np.array([6.0, 3.0, 1.0]), 2.9)
        assert mixture.sum() == pytest.approx(1)
    assert mixture == pytest.approx([FLOOR, 1 - 2 * FLOOR, FLOOR], abs=1e-3)
    unknown = tracking_mixture(np.full(3, 1 / 3), np.array([np.nan, 3.0, np.inf]), 3.0)
    assert unknown[0] == pytest.approx(unknown[1]) and unknown[2] < unknown[0]


def test_slots_follow_the_mixture_and_roles_say_which_material_a_slot_holds() -> None:
    task, n = planted_task(), 200
    roles = np.tile([2, 0, 1], (n, 1))
    seeds = np.full(n, 5, np.uint64)
    sequences, labels, slots = draw_batches(task, seeds, np.arange(n), 20, fixed_mixture("source_1"), roles)
    assert sequences.shape == labels.shape == (n, 20, 8) and slots.shape == (n, 20)
    assert np.array_equal(sequences[..., 0] // 1000, np.array([2, 0, 1])[slots])
    assert np.all(np.diff(sequences, axis=-1) == 1) and np.all(labels == sequences + 1)
    assert (slots == 0).mean() == pytest.approx(0.9, abs=0.02)
    assert (slots == 2).mean() == pytest.approx(FLOOR, abs=0.02)
    starts = sequences[..., 0] % 1000
    assert starts.min() == 0 and starts.max() == 50 - 9


def test_a_batch_follows_from_its_cursor_and_not_from_how_many_are_drawn() -> None:
    task, n = planted_task(), 5
    seeds, steps, roles = np.full(n, 11, np.uint64), np.arange(n) * 7, np.tile([0, 1, 2], (n, 1))
    together, _, _ = draw_batches(task, seeds, steps, 4, fixed_mixture("uniform"), roles)
    for batch in range(n):
        one = slice(batch, batch + 1)
        alone, _, _ = draw_batches(task, seeds[one], steps[one], 4, fixed_mixture("uniform"), roles[one])
        assert np.array_equal(together[batch], alone[0])
    other, _, _ = draw_batches(task, seeds + np.uint64(1), steps, 4, fixed_mixture("uniform"), roles)
    assert not np.array_equal(together, other)


def test_token_noise_hits_its_share_with_ids_of_the_vocabulary() -> None:
    inputs = np.full((50, 4, 100), 700)
    noisy = corrupt(inputs, "token_noise", np.arange(50, dtype=np.uint64), np.zeros(50, np.int64), 512)
    assert (noisy != 700).mean() == pytest.approx(TOKEN_NOISE, abs=0.01)
    drawn = noisy[noisy != 700]
    assert drawn.min() >= 0 and drawn.max() < 512 and drawn.mean() == pytest.approx(256, rel=0.05)


def test_span_masking_masks_one_span_of_its_length_anywhere() -> None:
    inputs = np.full((200, 3, 20), 7)
    masked = corrupt(inputs, "span_masking", np.arange(200, dtype=np.uint64), np.zeros(200, np.int64), 512)
    gone = masked == 0
    assert np.all(gone.sum(-1) == round(SPAN_SHARE * 20))
    assert np.all(np.abs(np.diff(gone.astype(int), axis=-1)).sum(-1) <= 2)
    assert gone.any((0, 1)).all()
    assert np.array_equal(corrupt(inputs, "off", np.arange(200, dtype=np.uint64), np.zeros(200, np.int64), 512), inputs)
