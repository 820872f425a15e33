"""A user's examples through a tokenizer: rows of ids and labels, as the kinds of model want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from llmo.errors import LlmoError
from llmo.kinds import IGNORED, PADDING
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.labelled import Labelled
from llmo.tasks.own.data import OwnData, Values, labels_of
from llmo.tasks.prompts import Prompts
from llmo.tasks.regression import Regression
from llmo.tasks.task import Examples, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LONGEST_TOKENS = 512
"""Most tokens of a sequence, however long the examples and the model's context are."""
COVERED = 0.99
"""Share of the training examples that have to fit; longer ones are cut, and counted aloud."""
MULTIPLE = 8
"""Lengths are multiples of it."""
VALIDATED = 256
"""Most validation sequences: each environment step looks at all of them."""

T = TypeVar("T")
Pair = tuple[list[int], list[Any]]
"""Ids and labels of one example, not yet padded."""


@dataclass(frozen=True)
class Encoded:
    """What a model can train on.

    Attributes:
        task: The task.
        labels: Names of the classes or tags; empty for other tasks.
        notes: What should be said aloud.
    """

    task: Task
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def encode(data: OwnData, tokenizer: PreTrainedTokenizerFast, config: Any, context: int) -> Encoded:
    """Encode a user's data.

    Args:
        data: The examples.
        tokenizer: Of the model.
        config: Of the model. Where it has classes or tags of the same names, their order is kept.
        context: Most tokens that the model can take.

    Raises:
        LlmoError: The tokenizer cannot do what the data need, or there is too little text.
    """
    if data.task == "causal_lm" and data.roles == ("text",):
        return _running_text(data, tokenizer, context)
    if data.task == "seq2seq" and getattr(config, "is_encoder_decoder", False):
        return _pairs_of_sequences(data, tokenizer, decoder_start(config, tokenizer), context)
    names: tuple[str, ...] = ()
    if data.task in ("classification", "tagging"):
        found = set(labels_of(_all(data), "label" if data.task == "classification" else "tags"))
        known = tuple(name for _, name in sorted((getattr(config, "id2label", None) or {}).items()))
        numbers = all(name.isdecimal() for name in found)
        names = known if set(known) == found else tuple(sorted(found, key=int if numbers else str))
    index = {name: place for place, name in enumerate(names)}
    encoders: dict[str, Callable[[Values], Pair]] = {
        "classification": lambda value: (_text(tokenizer, value["text"]), [index[str(value["label"])]]),
        "regression": lambda value: (_text(tokenizer, value["text"]), [value["label"]]),
        "tagging": _tagger(tokenizer, index),
    }
    one = encoders[data.task] if data.task in encoders else _completer(data, tokenizer)
    encoded = _labelled(data, one, names, context)
    if data.task == "classification":
        encoded.task.prompts = Prompts.of(tokenizer, names)
    return encoded


def decoder_start(config: Any, tokenizer: Any) -> int:
    """The token that a decoder begins with."""
    start = getattr(config, "decoder_start_token_id", None)
    return int(start if start is not None else tokenizer.pad_token_id or 0)


def _all(data: OwnData) -> list[Values]:
    return [value for source in data.training for value in source]


def _text(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return ids


def _tagger(tokenizer: Any, index: dict[str, int]) -> Callable[[Values], Pair]:
    """The first piece of a word has its tag, the others have none."""

    def one(value: Values) -> Pair:
        if len(value["tokens"]) != len(value["tags"]):
            told = f"{len(value['tokens'])} and {len(value['tags'])} at {' '.join(value['tokens'])[:40]!r}"
            raise LlmoError("number of tokens and tags", told, "as many tags as tokens")
        try:
            encoded = tokenizer(value["tokens"], is_split_into_words=True, verbose=False)
        except AssertionError as error:
            # What byte-level tokenizers raise that join words without a space.
            raise LlmoError("tokenizer", type(tokenizer).__name__, "one made with add_prefix_space=True") from error
        words, labels, before = encoded.word_ids(), [], None
        for word in words:
            labels.append(IGNORED if word is None or word == before else index[str(value["tags"][word])])
            before = word
        return encoded["input_ids"], labels

    return one


def _completer(data: OwnData, tokenizer: Any) -> Callable[[Values], Pair]:
    """Only what is to be answered has labels: completions, a chat's last turn, the target of a pair."""
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []

    def parts(value: Values) -> tuple[list[int], list[int]]:
        if "messages" in value:
            return _chat(tokenizer, value["messages"])
        first, second = ("source", "target") if data.task == "seq2seq" else ("prompt", "completion")
        prompt = _text(tokenizer, value[first] if value[first][-1:].isspace() else value[first] + "\n")
        return prompt, tokenizer(value[second], add_special_tokens=False, verbose=False)["input_ids"] + end

    if data.roles == ("messages",) and not tokenizer.chat_template:
        raise LlmoError("tokenizer", "without a chat template", "one with, or data with prompts and completions")

    def one(value: Values) -> Pair:
        prompt, answer = parts(value)
        ids = [*prompt, *answer]
        return ids[:-1], [*([IGNORED] * (len(prompt) - 1)), *answer]

    return one


def _chat(tokenizer: Any, turns: Sequence[Any]) -> tuple[list[int], list[int]]:
    """A chat up to its last turn, and that turn."""
    try:
        prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(turns, return_dict=False)
    except Exception as error:
        # A template raises what its author wished.
        told = " ".join(str(error).split())[:200]
        raise LlmoError("messages", str(turns)[:80], f"a chat that the tokenizer's template takes ({told})") from error
    same = 0
    while same < min(len(prompt), len(whole) - 1) and prompt[same] == whole[same]:
        same += 1
    return whole[:same], whole[same:]


def _labelled(data: OwnData, one: Callable[[Values], Pair], names: tuple[str, ...], context: int) -> Encoded:
    sources = [[one(value) for value in source] for source in data.training]
    validation, test = [one(value) for value in _some(data.validation)], [one(value) for value in data.test]
    tokens, notes = _length([len(ids) for source in sources for ids, _ in source], context)
    by_token = data.task not in ("classification", "regression")
    # Behind an answer a causal model has nothing to hide, so that padding is any token.
    padding = 0 if data.task in ("causal_lm", "seq2seq") else PADDING

    def rows(pairs: Sequence[Pair]) -> Examples:
        positions = tokens if by_token else 1
        kind = torch.float32 if data.task == "regression" else torch.int64
        inputs = torch.full((len(pairs), tokens), padding)
        labels = torch.full((len(pairs), positions), IGNORED, dtype=kind)
        for row, (ids, wanted) in enumerate(pairs):
            # An answer stands at the end, so that a prompt that is too long loses its beginning.
            ids, wanted = (ids[-tokens:], wanted[-tokens:]) if padding == 0 else (ids[:tokens], wanted[:tokens])
            inputs[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(wanted)] = torch.tensor(wanted, dtype=kind)
        return Examples(inputs, labels)

    kind = Regression if data.task == "regression" else Labelled
    task = kind(_three([rows(source) for source in sources]), rows(validation), rows(test))
    return Encoded(task, names, notes)


def _pairs_of_sequences(data: OwnData, tokenizer: Any, start: int, context: int) -> Encoded:
    """Encoder's ids, then the decoder's: what it has said so far, from its starting token on."""
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []

    def one(value: Values) -> tuple[list[int], list[int]]:
        answer = tokenizer(value["target"], add_special_tokens=False, verbose=False)["input_ids"]
        return _text(tokenizer, value["source"]), [*answer, *end]

    sources = [[one(value) for value in source] for source in data.training]
    here, notes = _length([len(ids) for source in sources for ids, _ in source], context)
    there, more = _length([len(ids) for source in sources for _, ids in source], context)

    def rows(pairs: Sequence[tuple[list[int], list[int]]]) -> Examples:
        inputs, labels = torch.full((len(pairs), here + there), start), torch.full((len(pairs), there), IGNORED)
        inputs[:, :here] = PADDING
        for row, (ids, answer) in enumerate(pairs):
            ids, answer = ids[:here], answer[:there]
            inputs[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(answer)] = torch.tensor(answer)
            inputs[row, here + 1 : here + len(answer)] = torch.tensor(answer[:-1])
        return Examples(inputs, labels)

    validation, test = [one(value) for value in _some(data.validation)], [one(value) for value in data.test]
    task = Labelled(_three(list(map(rows, sources))), rows(validation), rows(test))
    return Encoded(task, (), (*notes, *more))


def _running_text(data: OwnData, tokenizer: Any, context: int) -> Encoded:
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    # Records of a table end; the lines of a text file go on, but for the last of a file.
    joint = end if any(not value["text"].endswith("\n") for value in data.training[0][:-1]) else []

    def ids(values: Sequence[Values]) -> np.ndarray[Any, np.dtype[np.int32]]:
        texts = tokenizer([value["text"] for value in values], add_special_tokens=False, verbose=False)["input_ids"]
        return np.concatenate([np.array([*text, *joint], np.int32) for text in texts])

    sources, validation, test = tuple(map(ids, data.training)), ids(data.validation), ids(data.test)
    tokens = min(context, 128)
    for name, text in (("training", min(sources, key=len)), ("validation", validation), ("test", test)):
        if len(text) <= tokens:
            raise LlmoError(f"{name} text", f"{len(text)} tokens", f"more than {tokens}, one sequence of the model")
    held_out = [_windows(text, tokens) for text in (validation, test)]
    held_out[0] = np.stack(_some(list(held_out[0])))
    return Encoded(CausalLM(_three(sources), *held_out), (), ())


def _windows(text: np.ndarray[Any, Any], tokens: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    starts = np.arange(0, len(text) - tokens, tokens)
    return text[starts[:, None] + np.arange(tokens + 1)].astype(np.int64)


def _three(sources: Sequence[T]) -> tuple[T, ...]:
    """Materials for the three slots of a run: the last one again where there are fewer."""
    return (*sources, sources[-1], sources[-1])[:3]


def _some(values: Sequence[Any]) -> list[Any]:
    """At most `VALIDATED` of them, evenly."""
    if len(values) <= VALIDATED:
        return list(values)
    return [values[place] for place in np.linspace(0, len(values) - 1, VALIDATED).astype(int)]


def _length(lengths: Sequence[int], context: int) -> tuple[int, tuple[str, ...]]:
    """Tokens of a sequence, by how long the training examples are."""
    wanted = int(np.quantile(lengths, COVERED, method="higher"))
    tokens = min(-(-wanted // MULTIPLE) * MULTIPLE, context, LONGEST_TOKENS)
    longer = sum(length > tokens for length in lengths)
    return tokens, (f"{longer} of {len(lengths)} training examples are cut to {tokens} tokens",) if longer else ()
