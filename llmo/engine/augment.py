"""Changes of training sequences, all by counter: corrupted inputs, edited sequences, edited text.

Token noise, span masking and synonyms change what is read; what is to be predicted stays clean. Insertion, deletion and
swap (Wei and Zou 2019, "EDA: easy data augmentation") edit a sequence with its labels, and so do keyboard and OCR
errors, character by character: a language model then learns the edited text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmo.engine.streams import EDIT, NOISE, NOISE_TOKEN, SPAN, WHICH, uniform
from llmo.hyperparameters import Augmentation
from llmo.kinds import IGNORED, PADDING
from llmo.tasks.task import Codec

TOKEN_NOISE = 0.1
"""Share of the tokens, or of the characters, that are changed at a strength of 1; of characters, a third of it."""
SPAN_SHARE = 0.15
SYNONYMS = 0.4
"""Share of the words in a user's table that are replaced at a strength of 1."""
NEIGHBOURS = 4
"""Among how many of the nearest tokens a synonym is chosen."""
TEXTUAL = ("keyboard", "ocr")
"""Augmentations of characters, which need the text."""
KEYBOARD = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
OCR = {
    "0": "oO", "o": "0c", "O": "0Q", "l": "1I", "1": "lI", "I": "l1", "i": "l", "5": "sS", "s": "5", "S": "5", "8": "B",
    "B": "8", "g": "q9", "q": "g", "9": "g", "e": "c", "c": "e", "h": "b", "b": "h6", "6": "b", "u": "v", "v": "u",
    "n": "r", "r": "n", "t": "f", "f": "t", "z": "2", "2": "z",
}  # fmt: skip
"""Characters that are read for others."""

Ids = NDArray[np.int64]
Seeds = NDArray[np.uint64]
Labels = Literal["next", "token", "sequence", "target"]
"""What labels are of: the next token of running text, each token, the whole sequence, or a target of its own."""


def _keys() -> dict[str, str]:
    """The keys beside, above and below each key."""
    near: dict[str, str] = {}
    for row, keys in enumerate(KEYBOARD):
        for at, key in enumerate(keys):
            found = keys[max(0, at - 1) : at] + keys[at + 1 : at + 2]
            # Each row is shifted to the right of the one above it.
            found += "".join(above[at : at + 2] for above in KEYBOARD[max(0, row - 1) : row])
            found += "".join(below[max(0, at - 1) : at + 1] for below in KEYBOARD[row + 1 : row + 2])
            near[key] = found
            near[key.upper()] = found.upper()
    return near


CONFUSED: dict[str, Mapping[str, str]] = {"keyboard": _keys(), "ocr": OCR}


@dataclass(frozen=True)
class Words:
    """What is known of a run's tokens.

    Attributes:
        vocabulary: How many there are.
        labels: What the labels are of.
        neighbours: Tokens, [m], to those that mean about the same, [m, `NEIGHBOURS`].
        codec: Turns tokens into text and back; None where nothing does.
        synonyms: Words with what may stand for them, a user's; they go before neighbours.
        pads: Whether the model knows `PADDING`; else a sequence's last token stands for it.
    """

    vocabulary: int
    labels: Labels = "next"
    neighbours: Callable[[Ids], Ids] | None = None
    codec: Codec | None = None
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pads: bool = True

    def can(self, augmentation: Augmentation) -> bool:
        """Whether sequences can be changed so."""
        textual = self.codec is not None and self.labels != "token"
        return textual if augmentation in TEXTUAL else augmentation != "synonyms" or self.neighbours is not None


def augment(
    inputs: Ids,
    labels: NDArray[Any],
    augmentation: Augmentation,
    strength: float,
    seeds: Seeds,
    steps: Ids,
    words: Words,
) -> tuple[Ids, NDArray[Any]]:
    """Batches with the same augmentation, changed.

    Args:
        inputs: Token ids [S, B, T].
        labels: [S, B, P].
        augmentation: How.
        strength: Factor on how much is changed.
        seeds: The replica's seed of each batch, [S].
        steps: Its data cursor, [S].
        words: What is known of the tokens.
    """
    if augmentation in ("off", "token_noise", "span_masking"):
        return corrupt(inputs, augmentation, seeds, steps, words.vocabulary, strength), labels
    tabled = augmentation == "synonyms" and words.synonyms and words.codec and words.labels != "token"
    if augmentation == "synonyms" and not tabled:
        hit = _hits(inputs, TOKEN_NOISE * strength, seeds, steps)
        if words.labels == "target":
            hit[..., inputs.shape[-1] - labels.shape[-1] :] = False
        return np.where(hit, _similar(inputs, seeds, steps, words), inputs), labels
    # A language model's labels are the next tokens, so the sequence and its last label are edited as one.
    running = words.labels == "next"
    if running:
        sequences = np.concatenate([inputs, labels[..., -1:]], -1)
    else:
        sequences = inputs[..., : inputs.shape[-1] - labels.shape[-1]] if words.labels == "target" else inputs
    if augmentation in TEXTUAL or tabled:
        edited = _edit_text(sequences, augmentation, strength, seeds, steps, words)
    else:
        edited, origin = _edit_tokens(sequences, augmentation, strength, seeds, steps, words)
        if words.labels == "token":
            moved = np.take_along_axis(labels, np.maximum(origin, 0), -1)
            labels = np.where(origin >= 0, moved, IGNORED).astype(labels.dtype)
    if running:
        return edited[..., :-1], edited[..., 1:]
    return np.concatenate([edited, inputs[..., edited.shape[-1] :]], -1), labels


def corrupt(
    inputs: Ids, augmentation: Augmentation, seeds: Seeds, steps: Ids, vocabulary: int, strength: float = 1.0
) -> Ids:
    """Inputs of n batches with the same augmentation, corrupted.

    Args:
        inputs: Token ids [n, B, T].
        augmentation: ``off``, ``token_noise`` or ``span_masking``.
        seeds: The replica's seed of each, [n].
        steps: Its data cursor, [n].
        vocabulary: Number of token ids.
        strength: Factor on how much is changed.
    """
    if augmentation == "off":
        return inputs
    _, batch, tokens = inputs.shape
    if augmentation == "token_noise":
        hit = uniform(seeds, steps, NOISE, batch * tokens) < TOKEN_NOISE * strength
        other = (uniform(seeds, steps, NOISE_TOKEN, batch * tokens) * vocabulary).astype(np.int64)
        return np.where(hit.reshape(inputs.shape) & (inputs != PADDING), other.reshape(inputs.shape), inputs)
    length = max(1, round(SPAN_SHARE * strength * tokens))
    start = (uniform(seeds, steps, SPAN, batch) * (tokens - length + 1)).astype(np.int64)
    place = np.arange(tokens) - start[:, :, None]
    return np.where((place >= 0) & (place < length) & (inputs != PADDING), 0, inputs)


def _hits(sequences: Ids, rate: float, seeds: Seeds, steps: Ids) -> NDArray[np.bool_]:
    u = uniform(seeds, steps, EDIT, sequences[0].size).reshape(sequences.shape)
    hits: NDArray[np.bool_] = (u < rate) & (sequences != PADDING)
    return hits


def _similar(sequences: Ids, seeds: Seeds, steps: Ids, words: Words) -> Ids:
    """A token that means about the same for every token; any other where nobody knows."""
    u = uniform(seeds, steps, WHICH, sequences[0].size).reshape(sequences.shape)
    if words.neighbours is None:
        return (u * words.vocabulary).astype(np.int64)
    known, places = np.unique(np.maximum(sequences, 0), return_inverse=True)
    found = words.neighbours(known)
    chosen: Ids = found[places.reshape(sequences.shape), (u * found.shape[1]).astype(np.int64)]
    return chosen


def _edit_tokens(
    sequences: Ids, augmentation: Augmentation, strength: float, seeds: Seeds, steps: Ids, words: Words
) -> tuple[Ids, Ids]:
    """Edited sequences, [S, B, L], and where each token comes from: -1 for one that is new, or for padding."""
    hits = _hits(sequences, TOKEN_NOISE * strength, seeds, steps)
    new = _similar(sequences, seeds, steps, words) if augmentation == "insertion" else sequences
    edited, origins = np.empty_like(sequences), np.empty_like(sequences)
    length, running = sequences.shape[-1], words.labels == "next"
    for row in np.ndindex(sequences.shape[:2]):
        real, hit = np.flatnonzero(sequences[row] != PADDING), hits[row]
        if augmentation == "swap":
            chosen = np.flatnonzero(hit)
            origin = np.arange(length)
            origin[chosen] = np.roll(chosen, 1)
            edited[row], origins[row] = sequences[row][origin], origin
            continue
        if augmentation == "insertion":
            origin = np.repeat(real, 1 + hit[real])
            fresh = np.concatenate([[False], origin[1:] == origin[:-1]])[: len(origin)]
            tokens = np.where(fresh, new[row][origin], sequences[row][origin])
            origin = np.where(fresh, -1, origin)
        else:
            kept = real[~hit[real]]
            origin = kept if len(kept) else real[:1]
            tokens = sequences[row][origin]
        if running:
            # A language model has a label everywhere: what is missing at the end begins again at the beginning.
            tokens, origin = np.resize(tokens, length), np.resize(origin, length)
        missing = max(0, length - len(tokens))
        padding = PADDING if words.pads else sequences[row][-1]
        edited[row] = np.pad(tokens[:length], (0, missing), constant_values=padding)
        origins[row] = np.pad(origin[:length], (0, missing), constant_values=-1)
    return edited, origins


def _edit_text(
    sequences: Ids, augmentation: Augmentation, strength: float, seeds: Seeds, steps: Ids, words: Words
) -> Ids:
    """Sequences, [S, B, L], whose text has been edited; special tokens at their ends stay."""
    codec = words.codec
    assert codec is not None
    length = sequences.shape[-1]
    special = {token for token, added in codec.get_added_tokens_decoder().items() if added.special}
    rows = [row[row != PADDING].tolist() for row in sequences.reshape(-1, length)]
    ends = [_ends(row, special) for row in rows]
    texts = codec.decode_batch([row[first:last] for row, (first, last) in zip(rows, ends)])
    longest = max(map(len, texts), default=0)
    batch = sequences.shape[1]
    u, which = (uniform(seeds, steps, stream, batch * longest).reshape(len(rows), longest) for stream in (EDIT, WHICH))
    if augmentation == "synonyms":
        share = min(1.0, SYNONYMS * strength)
        edited = [_replace_words(text, words.synonyms, share, *numbers) for text, *numbers in zip(texts, u, which)]
    else:
        rate, confused = TOKEN_NOISE / 3 * strength, CONFUSED[augmentation]
        edited = [_mistype(text, confused, rate, *numbers) for text, *numbers in zip(texts, u, which)]
    result = np.full((len(rows), length), PADDING, np.int64)
    encoded = codec.encode_batch(edited, add_special_tokens=False)
    for place, (row, (first, last), made) in enumerate(zip(rows, ends, encoded)):
        room = len(row) - (last - first)
        tokens = [*row[:first], *made.ids[: length - room], *row[last:]]
        if words.labels == "next" and tokens:
            tokens = np.resize(tokens, length).tolist()
        result[place, : len(tokens)] = tokens
    return result.reshape(sequences.shape)


def _ends(row: list[int], special: set[int]) -> tuple[int, int]:
    """Between which places a row has no special tokens at its ends."""
    first, last = 0, len(row)
    while first < last and row[first] in special:
        first += 1
    while last > first and row[last - 1] in special:
        last -= 1
    return first, last


def _mistype(
    text: str, confused: Mapping[str, str], rate: float, u: NDArray[np.float64], which: NDArray[np.float64]
) -> str:
    return "".join(
        confused[letter][int(other * len(confused[letter]))] if hit < rate and letter in confused else letter
        for letter, hit, other in zip(text, u, which)
    )


def _replace_words(
    text: str, synonyms: Mapping[str, tuple[str, ...]], share: float, u: NDArray[np.float64], which: NDArray[np.float64]
) -> str:
    """A share of the words that have synonyms, replaced."""
    parts = text.split(" ")
    for place, word in enumerate(parts):
        others = synonyms.get(word) or synonyms.get(word.lower())
        if others and u[place] < share:
            parts[place] = others[int(which[place] * len(others))]
    return " ".join(parts)
