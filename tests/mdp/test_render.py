"""A run as a line and as a picture."""

import dataclasses
import math

import numpy as np
import pytest

from llmo.diagnostics.history import History
from llmo.hyperparameters import Hyperparameters
from llmo.mdp.render import as_image, as_text, spread
from llmo.measurement import Measurement

START = Measurement(
    step=0, optimizer_steps=0, spent=0.01, cost=1e6, validation_loss=6.2, best_validation_loss=6.2, train_loss=math.nan,
    source_loss=(math.nan,) * 3, source_share=(0, 0, 0), source_tokens=(900, 900, 900), mixture=(1 / 3,) * 3,
    gradient_norm=0, clipped=0, momentum_cosine=0, gradient_cosine=0, update_ratio=0, learning_rate=0.02,
    teacher_loss=math.nan, diverged=False,
)  # fmt: skip


def run(steps: int) -> History:
    history = History("scratch", 512, 0.01, Hyperparameters(learning_rate=0.02), measurements=[START])
    for step in range(1, steps + 1):
        loss = 6.2 - 0.1 * step
        change = {"step": step, "spent": 0.04 * step, "validation_loss": loss, "best_validation_loss": loss}
        history.measurements.append(dataclasses.replace(START, **change, train_loss=loss - 0.2))  # type: ignore[arg-type]
        history.actions.append("source_tracking" if step % 2 else "keep")
    return history


def test_the_line_has_the_numbers() -> None:
    line = as_text(run(3))
    expected = ("step  3", "budget  12%", "5.900 (best 5.900)", "5.700", "0.02 (2x default)", "source_tracking")
    assert all(part in line for part in expected), line
    assert "\n" not in line and "diverged" not in line


def test_the_line_before_training_and_after_a_divergence() -> None:
    assert "training - " in as_text(run(0)) and "not trained yet" in as_text(run(0))
    history = run(2)
    history.measurements[-1] = dataclasses.replace(history.last, validation_loss=math.inf, diverged=True)
    assert as_text(history).endswith("diverged") and "best 6.000" in as_text(history)
    assert as_image(history).shape == (640, 960, 3)


@pytest.mark.parametrize("steps", [0, 1, 24])
def test_the_picture_shows_what_happened(steps: int) -> None:
    image = as_image(run(steps))
    assert image.shape == (640, 960, 3) and image.dtype == np.uint8
    blue = np.array([0x00, 0x72, 0xB2])
    drawn = (np.abs(image.astype(int) - blue).max(axis=2) < 8).any(axis=0)
    columns = np.flatnonzero(drawn[:600])
    assert len(columns) and (columns.max() - columns.min() > 400) == (steps == 24)


def test_labels_keep_apart_and_in_order() -> None:
    places = [0.0, 0.01, 0.02, 0.5, 0.97, 0.98, 1.0]
    moved = spread(places, 0.05, 0, 1)
    assert min(np.diff(moved)) >= 0.05 - 1e-12 and moved[0] >= 0.025 - 1e-12 and moved[-1] <= 0.975 + 1e-12
    assert moved[3] == 0.5
    crowded = spread([0.5] * 40, 0.05, 0, 1)
    np.testing.assert_allclose(np.diff(crowded), 1 / 40)
    assert spread([], 0.05, 0, 1) == []
