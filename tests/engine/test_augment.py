"""Edits of sequences: what may change and what may not, case by case."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from llmo.engine.augment import CONFUSED, Words, augment
from llmo.hyperparameters import Augmentation
from llmo.kinds import IGNORED, PADDING
from llmo.tasks.text import load_tokenizer

SEEDS, STEPS = np.arange(20, dtype=np.uint64), np.arange(20)
# Ten batches of two sequences would do; all tokens of a sequence differ, so that one can see where each has gone.
RUNNING = 100 + np.arange(25)[None, None] + 50 * np.arange(2)[None, :, None] + np.zeros((20, 1, 1), np.int64)


def edited(augmentation: Augmentation, words: Words, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    return augment(RUNNING[..., :-1], RUNNING[..., 1:], augmentation, strength, SEEDS, STEPS, words)


@pytest.mark.parametrize("augmentation", ["insertion", "deletion", "swap", "keyboard", "ocr"])
def test_a_language_model_learns_the_edited_text(augmentation: Augmentation) -> None:
    words = Words(512, "next", codec=load_tokenizer())
    inputs, labels = edited(augmentation, words)
    assert np.array_equal(inputs[..., 1:], labels[..., :-1])
    assert not np.array_equal(inputs, RUNNING[..., :-1])
    again, other = edited(augmentation, words)
    assert np.array_equal(inputs, again) and np.array_equal(labels, other)


def test_deleted_tokens_are_missing_and_the_others_stand_in_order() -> None:
    inputs, labels = edited("deletion", Words(512))
    gone = []
    for row, whole in zip(np.concatenate([inputs, labels[..., -1:]], -1).reshape(-1, 25), RUNNING.reshape(-1, 25)):
        kept = np.flatnonzero(np.isin(whole, row))
        gone.append(25 - len(kept))
        # At the end it begins again.
        assert np.array_equal(row, np.resize(whole[kept], 25))
    assert 0.05 < np.mean(gone) / 25 < 0.15


def test_inserted_tokens_are_neighbours_of_those_before_them() -> None:
    words = Words(512, neighbours=lambda ids: np.stack([ids + 300] * 4, -1))
    inputs, _ = edited("insertion", words)
    new = inputs >= 400
    assert 0.05 < new.mean() < 0.15
    _, rows, places = np.nonzero(new)
    assert (places > 0).all() and np.array_equal(inputs[new] - 300, inputs[np.nonzero(new)[0], rows, places - 1])


def test_swapped_tokens_are_the_same_in_another_order() -> None:
    inputs, labels = edited("swap", Words(512))
    sequences = np.concatenate([inputs, labels[..., -1:]], -1)
    assert np.array_equal(np.sort(sequences, -1), RUNNING)
    assert 0.04 < (sequences != RUNNING).mean() < 0.15


def test_more_strength_changes_more() -> None:
    changed = [(edited("deletion", Words(512), strength)[0] != RUNNING[..., :-1]).mean() for strength in (0.5, 1, 2)]
    assert changed[0] < changed[1] < changed[2]


def test_synonyms_are_read_and_the_labels_stay() -> None:
    words = Words(512, neighbours=lambda ids: np.stack([ids + 300] * 4, -1))
    inputs, labels = edited("synonyms", words)
    changed = inputs != RUNNING[..., :-1]
    assert np.array_equal(labels, RUNNING[..., 1:]) and 0.05 < changed.mean() < 0.15
    assert np.array_equal(inputs[changed], RUNNING[..., :-1][changed] + 300)


def test_tags_go_with_their_tokens_and_padding_stays_at_the_end() -> None:
    inputs = np.where(np.arange(24) < 18, RUNNING[..., :-1], PADDING)
    labels = np.where(inputs == PADDING, IGNORED, inputs % 7)
    for augmentation in ("insertion", "deletion", "swap"):
        words = Words(512, "token", neighbours=lambda ids: np.stack([ids + 300] * 4, -1))
        found, tags = augment(inputs, labels, augmentation, 1.0, SEEDS, STEPS, words)
        old = (found >= 0) & (found < 400)
        assert np.array_equal(tags[old], found[old] % 7) and (tags[~old] == IGNORED).all()
        real = (found != PADDING).astype(int)
        assert (np.diff(real, axis=-1) <= 0).all() and real.sum(-1).min() > 0


def test_of_a_source_and_a_target_only_the_source_is_edited() -> None:
    labels = RUNNING[..., :5]
    for augmentation in ("insertion", "deletion", "swap", "keyboard"):
        words = Words(512, "target", codec=load_tokenizer())
        inputs, targets = augment(RUNNING[..., :-1], labels, augmentation, 2.0, SEEDS, STEPS, words)
        assert np.array_equal(inputs[..., -5:], RUNNING[..., -6:-1]) and targets is labels
        assert not np.array_equal(inputs, RUNNING[..., :-1])


def encoded(text: str, length: int, codec: Tokenizer) -> np.ndarray:
    ids = codec.encode(text).ids
    return np.array(ids + [PADDING] * (length - len(ids)))[None, None]


@pytest.mark.parametrize("augmentation", ["keyboard", "ocr"])
def test_characters_become_their_neighbours(augmentation: Augmentation) -> None:
    codec, text = load_tokenizer(), "the quick brown fox jumps over the lazy dog " * 4
    row, found = encoded(text, 400, codec), []
    for seed in range(30):
        seeds, words = np.array([seed], np.uint64), Words(512, "sequence", codec=codec)
        inputs, _ = augment(row, np.zeros((1, 1, 1), np.int64), augmentation, 2.0, seeds, np.array([0]), words)
        other = codec.decode(inputs[0, 0][inputs[0, 0] >= 0].tolist())
        assert len(other) == len(text)
        found += [(a, b) for a, b in zip(text, other) if a != b]
    assert all(b in CONFUSED[augmentation][a] for a, b in found)
    assert 0.01 < len(found) / (30 * len(text)) < 0.08
    near = CONFUSED["keyboard"]
    assert set(near["g"]) >= set("fhty") and "p" not in near["g"] and set(near["A"]) >= set("SQ")


def test_a_table_of_synonyms_goes_before_neighbours() -> None:
    codec = load_tokenizer()
    table = {"quick": ("fast", "rapid"), "dog": ("hound",)}
    row, found = encoded("The quick dog sees a quick cat", 60, codec), set()
    for seed in range(20):
        seeds = np.array([seed], np.uint64)
        words = Words(512, "sequence", lambda ids: 1 / 0, codec, table)
        inputs, _ = augment(row, np.zeros((1, 1, 1), np.int64), "synonyms", 1.0, seeds, np.array([0]), words)
        found.add(codec.decode(inputs[0, 0][inputs[0, 0] >= 0].tolist()))
    known = {f"The {a} {b} sees a {c} cat" for a in ("quick", "fast", "rapid") for b in ("dog", "hound")
             for c in ("quick", "fast", "rapid")}  # fmt: skip
    assert found <= known and len(found) > 4


def test_what_needs_text_or_labels_of_its_own_is_known() -> None:
    assert not Words(512).can("keyboard") and not Words(512).can("synonyms") and Words(512).can("swap")
    codec = load_tokenizer()
    assert Words(512, codec=codec).can("ocr") and not Words(512, "token", codec=codec).can("ocr")
