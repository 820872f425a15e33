"""Templates as tokens are what the tokenizer makes of the text that a person would write."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llmo.engine.models import ModelShape, model_config
from llmo.engine.own_models import fresh_model
from llmo.hyperparameters import TEMPLATES as LEVELS
from llmo.hyperparameters import Hyperparameters
from llmo.kinds import PADDING
from llmo.tasks.own.data import OwnData
from llmo.tasks.own.encode import encode
from llmo.tasks.prompts import LEAST, TEMPLATES, Prompts
from llmo.tasks.task import Task

TEXTS = ["Open a file for reading.", "sum numbers", "A socket, a port and a host: all that a client needs to begin."]
LABELS = ("files", "numbers", "internet")
WORDS = "[CLS] [SEP] [UNK] Text Topic What is this A : ? Open a file for reading files numbers".split()


def bpe() -> PreTrainedTokenizerFast:
    return fresh_model("x", model_config(ModelShape(8, 1)), "classification").tokenizer


def with_special_tokens() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a token before each sequence and one behind, as BERT's does."""
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


TOKENIZERS = {"bpe": bpe, "special": with_special_tokens}


def rows(tokenizer: PreTrainedTokenizerFast, texts: list[str], tokens: int) -> np.ndarray:
    found = np.full((len(texts), tokens), PADDING, np.int64)
    for row, text in enumerate(texts):
        ids = tokenizer(text)["input_ids"][:tokens]
        found[row, : len(ids)] = ids
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", [1, 2, 3])
def test_a_template_is_what_the_tokenizer_makes_of_the_whole_text(name: str, template: int) -> None:
    tokenizer = TOKENIZERS[name]()
    before, behind = TEMPLATES[template]
    plain, whole = (rows(tokenizer, texts, 80) for texts in (TEXTS, [before + text + behind for text in TEXTS]))
    prompts = Prompts.of(tokenizer, LABELS)
    assert np.array_equal(prompts.around(plain, template), whole)
    assert np.array_equal(prompts.around(plain.reshape(1, 3, 1, 80), template), whole.reshape(1, 3, 1, 80))
    bare = tokenizer(list(LABELS), add_special_tokens=False)["input_ids"]
    assert prompts.names == tuple(map(tuple, bare))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", [1, 2, 3])
def test_a_long_text_loses_its_end_and_the_template_nothing(name: str, template: int) -> None:
    tokenizer = TOKENIZERS[name]()
    prompts = Prompts.of(tokenizer, LABELS)
    before, behind = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in TEMPLATES[template])
    text = tokenizer(" ".join(TEXTS * 3), add_special_tokens=False)["input_ids"]
    special = ([0], [1]) if name == "special" else ([], [])
    room = 32 - len(before) - len(behind) - len(special[0] + special[1])
    whole = [*special[0], *before, *text[:room], *behind, *special[1]]
    assert len(whole) == 32 and prompts.fits(32, template) and prompts.fits(32 - room + LEAST, template)
    assert not prompts.fits(32 - room + LEAST - 1, template)
    # What is cut to the length of a sequence has lost its special token at the end.
    assert prompts.around(rows(tokenizer, [" ".join(TEXTS * 3)], 32), template)[0].tolist() == whole


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", [0, 1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2])
def test_examples_are_what_the_tokenizer_makes_of_the_whole_text(name: str, template: int, shots: int) -> None:
    tokenizer = TOKENIZERS[name]()
    before, behind = TEMPLATES[template]
    prompts = Prompts.of(tokenizer, LABELS)
    plain = rows(tokenizer, TEXTS, 200)
    shown = tuple((plain[place], place) for place in range(shots))
    asked = "".join(f"{before}{TEXTS[place]}{behind}\n{LABELS[place]}\n" for place in range(shots))
    whole = rows(tokenizer, [asked + before + text + behind for text in TEXTS], 200)
    assert prompts.fits(200, template, shown) and np.array_equal(prompts.around(plain, template, shown), whole)


def test_examples_get_half_of_the_room_and_the_text_the_rest() -> None:
    tokenizer = bpe()
    prompts = Prompts.of(tokenizer, LABELS)
    text = tokenizer(" ".join(TEXTS * 3))["input_ids"]
    long = np.array(text)
    before, behind = (tokenizer(part)["input_ids"] for part in TEMPLATES[2])
    answers = [tokenizer(f"{TEMPLATES[2][1]}\n{LABELS[label]}\n")["input_ids"] for label in (2, 0)]
    tokens = 3 * len(before) + len(behind) + sum(map(len, answers)) + 2 * LEAST + 3
    shown = ((long, 2), (long, 0))
    each = (2 * LEAST + 3) // 4
    by_hand = [*before, *text[:each], *answers[0], *before, *text[:each], *answers[1], *before]
    by_hand += [*text[: tokens - len(by_hand) - len(behind)], *behind]
    assert prompts.around(long[None, :tokens], 2, shown)[0].tolist() == by_hand
    assert prompts.fits(tokens - 3, 2, shown) and not prompts.fits(tokens - 4, 2, shown)


def classified(tokenizer: PreTrainedTokenizerFast) -> Task:
    values = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    data = OwnData("classification", (values,), values, values, ("text", "label"), ())
    return encode(data, tokenizer, model_config(ModelShape(8, 1)), 64).task


def test_a_task_reads_all_splits_alike_and_by_default_what_it_has() -> None:
    tokenizer = bpe()
    task, plain, set_ = classified(tokenizer), Hyperparameters(1.0), Hyperparameters(1.0, template=2)
    assert len(TEMPLATES) == LEVELS
    ids = task.sources[0][0]
    assert task.read(ids, plain) is ids
    for part in (task.validation, task.test):
        assert task.held_out(part, plain) is part
        read = task.held_out(part, set_)
        assert np.array_equal(read.inputs.numpy(), task.read(ids, set_)) and torch.equal(read.labels, part.labels)
    by_hand = rows(tokenizer, [f"Text:\n{text}\nTopic:" for text in TEXTS[:2]], task.tokens)
    assert np.array_equal(task.read(ids, set_)[:2], by_hand)
