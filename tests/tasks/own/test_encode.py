"""A user's examples as rows of ids and labels: what a model would be asked to predict, and nothing else."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llmo.errors import LlmoError
from llmo.kinds import IGNORED, PADDING
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.own.data import OwnData, Values
from llmo.tasks.own.encode import encode
from llmo.tasks.regression import Regression

PLAIN = SimpleNamespace(is_encoder_decoder=False, id2label={})
WORDS = ["[PAD]", "[CLS]", "[SEP]", "<eos>", *"abcdefghij", "##x", "one", "two", "three", "\n"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Words and their pieces: `ax` is `a` and `##x`. Texts get `[CLS]` and `[SEP]`."""
    inner = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[PAD]"))
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", eos_token="<eos>")


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def data(task: Any, *values: Values, roles: tuple[str, ...] = ()) -> OwnData:
    return OwnData(task, (list(values),), list(values), list(values), roles or tuple(values[0]), ())


def test_classes_are_in_alphabetical_order_behind_padded_texts(tokenizer: Any) -> None:
    found = encode(
        data("classification", {"text": "a b c", "label": "no"}, {"text": "d", "label": "maybe"}), tokenizer, PLAIN, 64
    )
    assert found.labels == ("maybe", "no")
    rows = found.task.validation
    assert rows.inputs.tolist() == [
        ids("[CLS]", "a", "b", "c", "[SEP]") + 3 * [PADDING],
        ids("[CLS]", "d", "[SEP]") + 5 * [PADDING],
    ]
    assert rows.labels.tolist() == [[1], [0]]
    assert found.task.sizes == (8, 8, 8)


def test_a_model_that_knows_the_classes_keeps_their_order(tokenizer: Any) -> None:
    values = [{"text": "a", "label": label} for label in ("no", "maybe")]
    knows = SimpleNamespace(id2label={0: "no", 1: "maybe"})
    assert encode(data("classification", *values), tokenizer, knows, 64).labels == ("no", "maybe")
    numbers = [{"text": "a", "label": label} for label in (10, 9, 1)]
    assert encode(data("classification", *numbers), tokenizer, PLAIN, 64).labels == ("1", "9", "10")


def test_numbers_are_labels_of_a_regression(tokenizer: Any) -> None:
    found = encode(data("regression", {"text": "a", "label": 1.5}, {"text": "b", "label": -2.0}), tokenizer, PLAIN, 64)
    assert isinstance(found.task, Regression)
    assert found.task.test.labels.tolist() == [[1.5], [-2.0]]


def test_the_first_piece_of_a_word_has_its_tag(tokenizer: Any) -> None:
    value = {"tokens": ["ax", "b"], "tags": ["B-x", "O"]}
    found = encode(data("tagging", value, value), tokenizer, PLAIN, 64)
    assert found.labels == ("B-x", "O")
    assert found.task.validation.inputs[0].tolist() == ids("[CLS]", "a", "##x", "b", "[SEP]") + 3 * [PADDING]
    assert found.task.validation.labels[0].tolist() == [IGNORED, 0, IGNORED, 1, IGNORED, *(3 * [IGNORED])]
    with pytest.raises(LlmoError, match="1 and 2 at 'a'"):
        encode(data("tagging", {"tokens": ["a"], "tags": ["O", "O"]}), tokenizer, PLAIN, 64)


def test_only_a_completion_has_labels(tokenizer: Any) -> None:
    value = {"prompt": "a b \n", "completion": "c d"}
    task = encode(data("causal_lm", value, value), tokenizer, PLAIN, 64).task
    whole = ids("[CLS]", "a", "b", "\n", "[SEP]", "c", "d", "<eos>")
    assert task.validation.inputs[0].tolist() == [*whole[:-1], 0]
    assert task.validation.labels[0].tolist() == [*(4 * [IGNORED]), *whole[5:], IGNORED]


def test_only_the_last_turn_of_a_chat_has_labels(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    turns += [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d e"}]
    value = {"messages": turns}
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'one ' if m.role == 'user' else 'two ' }}{{ m.content }} three {% endfor %}"
        "{% if add_generation_prompt %}two {% endif %}"
    )
    task = encode(data("causal_lm", value, value), tokenizer, PLAIN, 64).task
    labels = [label for label in task.validation.labels[0].tolist() if label != IGNORED]
    assert labels[:3] == ids("d", "e", "three")
    tokenizer.chat_template = None
    with pytest.raises(LlmoError, match="without a chat template"):
        encode(data("causal_lm", value, value), tokenizer, PLAIN, 64)


def test_an_encoder_reads_and_a_decoder_says_the_target(tokenizer: Any) -> None:
    long, short = {"source": "a b c d e f", "target": "g h"}, {"source": "a", "target": "i"}
    task = encode(
        data("seq2seq", long, short), tokenizer, SimpleNamespace(is_encoder_decoder=True, decoder_start_token_id=0), 64
    ).task
    assert (task.tokens, task.positions) == (16, 8)
    assert task.test.inputs[0].tolist() == [*ids("[CLS]", *"abcdef", "[SEP]"), *ids("[PAD]", "g", "h"), *(5 * [0])]
    assert task.test.labels[0].tolist() == [*ids("g", "h", "<eos>"), *(5 * [IGNORED])]
    assert task.test.inputs[1].tolist() == [
        *ids("[CLS]", "a", "[SEP]"),
        *(5 * [PADDING]),
        *ids("[PAD]", "i"),
        *(6 * [0]),
    ]


def test_running_text_is_one_row_of_windows(tokenizer: Any) -> None:
    text = " ".join("abcdefghij" * 10) + " "
    found = encode(
        data("causal_lm", {"text": text + "\n"}, {"text": text + "\n"}, roles=("text",)), tokenizer, PLAIN, 16
    )
    assert isinstance(found.task, CausalLM) and found.task.tokens == 16
    row = np.array([*ids(*("abcdefghij" * 10), "\n")] * 2)
    inputs, labels = found.task.draw(np.array([0]), np.array([0.999]))
    assert inputs.tolist() == [row[-17:-1].tolist()] and labels.tolist() == [row[-16:].tolist()]
    assert found.task.test.inputs.flatten().tolist() == row[: found.task.test.inputs.numel()].tolist()


def test_long_examples_are_cut_aloud(tokenizer: Any) -> None:
    short, long = {"text": "a", "label": "x"}, {"text": " ".join(40 * "a"), "label": "y"}
    found = encode(data("classification", *(200 * [short]), long), tokenizer, PLAIN, 64)
    assert found.task.tokens == 8
    assert found.notes == ("1 of 201 training examples are cut to 8 tokens",)
    assert (
        len(found.task.validation.inputs) == 201
        and len(encode(data("classification", *(300 * [short]), long), tokenizer, PLAIN, 64).task.validation.inputs)
        == 256
    )


def test_too_little_text_is_refused(tokenizer: Any) -> None:
    value = {"text": "a b c\n"}
    with pytest.raises(LlmoError, match="training text '6 tokens'.*more than 16"):
        encode(data("causal_lm", value, value, roles=("text",)), tokenizer, PLAIN, 16)
