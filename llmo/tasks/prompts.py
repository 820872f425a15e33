"""What stands around a text that is classified: a hard template, and examples with the names of their labels.

A classifier reads the last token, so a template ends with the question that is to be answered (pattern-exploiting
training, Schick and Schuetze 2021, "Exploiting cloze questions for few-shot text classification"). Examples with
their answers stand before the text in the same template (Brown et al. 2020, "Language models are few-shot learners").
Sequences keep their length, and what does not fit is cut off the ends of the texts; so prompts cost no FLOPs, but room.
The text is augmented, what stands around it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.kinds import PADDING

TEMPLATES = (("", ""), ("", "\nTopic:"), ("Text:\n", "\nTopic:"), ("What is this?\n", "\nA:"))
"""What stands before a text and behind it, by level; nothing at first."""
LEAST = 8
"""Tokens of a text that a sequence must have room for; where examples are shown, half of them for each."""
Ids = tuple[int, ...]
Shown = tuple[tuple[NDArray[np.int64], int], ...]
"""Examples that are shown: token ids [T], and the label."""


@dataclass(frozen=True)
class Prompts:
    """Templates as a tokenizer has them.

    Attributes:
        names: Tokens of each class's name.
        heads: Tokens before a text, of each template.
        tails: Tokens behind a text, of each template.
        answers: Tokens behind the text of an example that is shown, up to the next text's template: of each template,
            for each class.
        begin: Special tokens that every sequence begins with.
        end: Special tokens that every sequence ends with, where it is not cut.
    """

    names: tuple[Ids, ...]
    heads: tuple[Ids, ...]
    tails: tuple[Ids, ...]
    answers: tuple[tuple[Ids, ...], ...]
    begin: Ids
    end: Ids

    @classmethod
    def of(cls, tokenizer: Any, labels: Sequence[str]) -> Prompts:
        """Those of a tokenizer of transformers.

        Args:
            tokenizer: Of the model.
            labels: Names of the classes.
        """

        def ids(text: str) -> Ids:
            return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else ()

        one, bare = tuple(tokenizer("a", verbose=False)["input_ids"]), ids("a")
        first = next((at for at in range(len(one)) if one[at : at + len(bare)] == bare), 0)
        return cls(
            names=tuple(map(ids, labels)),
            heads=tuple(ids(before) for before, _ in TEMPLATES),
            tails=tuple(ids(behind) for _, behind in TEMPLATES),
            answers=tuple(tuple(ids(f"{behind}\n{label}\n") for label in labels) for _, behind in TEMPLATES),
            begin=one[:first],
            end=one[first + len(bare) :],
        )

    def fits(self, tokens: int, template: int, shown: Shown = ()) -> bool:
        """Whether sequences of so many tokens have room for a template, examples and `LEAST` tokens of each text."""
        return self._free(tokens, template, shown) >= LEAST * max(1, len(shown))

    def around(self, inputs: NDArray[np.int64], template: int, shown: Shown = ()) -> NDArray[np.int64]:
        """Texts in a template, behind examples in the same one.

        Args:
            inputs: Token ids, [..., T], `PADDING` at the end of each.
            template: Its level, which fits.
            shown: The examples; all together they get at most half of the room for texts.

        Returns:
            The same with what stands around, [..., T]; a text that is too long is cut at its end.
        """
        before: list[int] = [*self.begin]
        for example, label in shown:
            (first,), (length,) = self._texts(example[None])
            length = min(length, self._free(inputs.shape[-1], template, shown) // (2 * len(shown)))
            text = example[first : first + length].tolist()
            before += [*self.heads[template], *text, *self.answers[template][label]]
        head = np.array((*before, *self.heads[template]), np.int64)
        tail = np.array((*self.tails[template], *self.end), np.int64)
        rows = inputs.reshape(-1, inputs.shape[-1])
        first, length = self._texts(rows)
        length = np.minimum(length, rows.shape[1] - len(head) - len(tail))
        column = np.arange(rows.shape[1])[None]
        found = np.full_like(rows, PADDING)
        found[:, : len(head)] = head
        place = column - len(head)
        text = np.take_along_axis(rows, np.clip(place + first[:, None], 0, rows.shape[1] - 1), 1)
        found = np.where((place >= 0) & (place < length[:, None]), text, found)
        place = place - length[:, None]
        behind = np.append(tail, PADDING)[np.clip(place, 0, len(tail))]
        return np.where((place >= 0) & (place < len(tail)), behind, found).reshape(inputs.shape)

    def _free(self, tokens: int, template: int, shown: Shown) -> int:
        """Tokens that a sequence has room for in all its texts; less than 0 where it has none."""
        around = (1 + len(shown)) * len(self.heads[template]) + len(self.tails[template])
        answers = sum(len(self.answers[template][label]) for _, label in shown)
        return tokens - around - answers - len(self.begin) - len(self.end)

    def _texts(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the text begins in each of some rows [N, T], and how long it is, without special tokens."""
        whole = (rows != PADDING).sum(1)
        begins = (rows[:, : len(self.begin)] == np.array(self.begin, np.int64)).all(1)
        first = np.where(begins, len(self.begin), 0)
        last = np.clip(whole[:, None] - len(self.end) + np.arange(len(self.end))[None], 0, None)
        ends = (np.take_along_axis(rows, last, 1) == np.array(self.end, np.int64)).all(1)
        return first, np.maximum(0, whole - first - np.where(ends, len(self.end), 0))
