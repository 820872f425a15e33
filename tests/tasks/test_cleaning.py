"""Planted dirt is found, and left out; what is clean stays."""

import numpy as np
import pytest

from llmo.mdp.dirt import soil
from llmo.mdp.mixed_instances import build_dirty_problem, draw_dirty_instance
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.cleaning import bad_sequences, near_duplicates, places_left, wrongly_decoded
from llmo.tasks.text import load_corpus, load_tokenizer


def test_near_duplicates_are_those_that_a_comparison_of_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 512, (120, 32))
    rows[60:80] = rows[:20]
    for row in range(60, 80):
        rows[row, 31 if row % 2 else 16] = 3
    rows[80] = rows[60]

    def runs(row: np.ndarray) -> set[tuple[int, ...]]:
        return {tuple(row[at : at + 3]) for at in range(30)}

    expected = np.zeros(120, bool)
    for later in range(120):
        for earlier in range(later):
            both = runs(rows[later]), runs(rows[earlier])
            expected[later] |= not expected[earlier] and len(both[0] & both[1]) >= 0.8 * len(both[0] | both[1])
    assert np.array_equal(near_duplicates(rows), expected) and expected[60:81].all() and expected.sum() == 21


@pytest.mark.parametrize(
    "text", ["caf\u00c3\u00a9 au lait", "quote \u00e2\u20ac\u0153 here", "a \ufffd b", "nul \x00 byte"]
)
def test_wrongly_decoded_text_is_found(text: str) -> None:
    codec = load_tokenizer()
    rows = np.full((2, 60), -1)
    for place, one in enumerate((text, "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m \u20ac \u201cquoted\u201d")):
        ids = codec.encode(one).ids
        rows[place, : len(ids)] = ids
    assert wrongly_decoded(rows, codec).tolist() == [True, False]


def test_the_texts_of_the_package_are_clean() -> None:
    tokens = load_corpus().tokens["prose", "train", "training"]
    rows = tokens[: len(tokens) // 32 * 32].reshape(-1, 32)
    assert not wrongly_decoded(rows, load_tokenizer()).any()
    assert near_duplicates(rows).mean() < 0.01


def test_planted_dirt_is_left_out_of_running_text() -> None:
    rng = np.random.default_rng(1)
    tokens = np.array(load_corpus().tokens["code", "train", "training"][: 32 * 300])
    windows = tokens[:330].reshape(10, 33).astype(np.int64)
    clean, task = (CausalLM((tokens,) * 3, windows, windows) for _ in range(2))
    task.codec = clean.codec = load_tokenizer()
    soil(task, 0.3, 0.2, rng)
    before = {rule: bad_sequences(clean, rule)[0].mean() for rule in ("duplicates", "broken")}
    found = {rule: bad_sequences(task, rule)[0].mean() for rule in ("duplicates", "broken")}
    assert found["broken"] == pytest.approx(0.2, abs=0.01) and before["broken"] == 0
    # What is broken is all alike, so it repeats itself as well.
    assert found["duplicates"] > 0.3 > 10 * before["duplicates"]
    left = places_left(task, ("broken", "duplicates"))
    assert left is not None
    bad = bad_sequences(task, "broken")[0] | bad_sequences(task, "duplicates")[0]
    for start in left[0]:
        assert not bad[start // 32] and (start // 32 + 1 >= len(bad) or not bad[(start + 32) // 32])
    inputs, _ = task.draw(np.zeros(400, np.int64), rng.random(400), left)
    assert not wrongly_decoded(inputs, load_tokenizer()).any()


def test_planted_dirt_is_left_out_of_examples() -> None:
    instance = next(
        one
        for one in (draw_dirty_instance("train", index) for index in range(400))
        if one.task == "classification" and one.broken > 0.2 and one.repeated > 0.2
    )
    task = build_dirty_problem(instance).task
    for rule in ("duplicates", "broken"):
        assert all(bad.any() and not bad.all() for bad in bad_sequences(task, rule))  # type: ignore[arg-type]
    left = places_left(task, ("duplicates", "broken"))
    assert left is not None
    inputs, _ = task.draw(np.zeros(200, np.int64), np.random.default_rng(0).random(200), left)
    assert not wrongly_decoded(inputs, task.codec).any()  # type: ignore[arg-type]
