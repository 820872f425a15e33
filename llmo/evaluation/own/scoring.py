"""What a model is worth on examples, by its own class in evaluation mode: metrics, and the loss of every example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.kinds import IGNORED, PADDING, Interface, kind_of
from llmo.tasks import metrics
from llmo.tasks.own.columns import OwnTask
from llmo.tasks.own.encode import decoder_start
from llmo.tasks.task import Examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

AT_ONCE = 32
"""Examples in one pass."""


@dataclass(frozen=True)
class Score:
    """How good a model is on some examples.

    Attributes:
        metrics: By name; see `llmo.tasks.metrics`.
        losses: Mean loss of each example, [N].
        weights: How many labels of each example count, [N].
    """

    metrics: dict[str, float]
    losses: NDArray[np.float64]
    weights: NDArray[np.int64]


def score_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    task: OwnTask,
    labels: Sequence[str],
    examples: Examples,
) -> Score:
    """Score a model.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        task: What it has learned.
        labels: Names of classes or tags.
        examples: Inputs and labels, see `llmo.kinds`.
    """
    device = next(model.parameters()).device
    outputs, losses, counts = [], [], []
    for part in _parts(examples):
        logits = _logits(model, part, device)
        if task in ("classification", "regression"):
            outputs.append(logits)
        elif task == "tagging":
            outputs.append(logits.argmax(-1))
        losses.append(_losses(logits, part.labels, task))
        counts.append(torch.ones(len(part.labels)) if task == "regression" else (part.labels != IGNORED).sum(1))
    each, weights = torch.cat(losses).double().numpy(), torch.cat(counts).long().numpy()
    mean = float((each * weights).sum() / weights.sum())
    right = examples.labels
    match task:
        case "classification":
            found = metrics.class_metrics(torch.cat(outputs)[:, 0], right[:, 0])
        case "regression":
            found = metrics.number_metrics(torch.cat(outputs)[:, 0, 0], right[:, 0])
        case "tagging":
            found = metrics.tag_metrics(*_tags(torch.cat(outputs), right, labels), mean)
        case "seq2seq":
            found = metrics.text_metrics(*_answers(model, tokenizer, examples), mean)
        case _:
            found = metrics.language_metrics(mean)
    return Score(found, each, weights)


def _parts(examples: Examples) -> Iterator[Examples]:
    for inputs, labels in zip(examples.inputs.split(AT_ONCE), examples.labels.split(AT_ONCE), strict=True):
        yield Examples(inputs, labels)


@torch.no_grad()
def _logits(model: PreTrainedModel, part: Examples, device: torch.device) -> Tensor:
    interface = Interface(model.config, kind_of(model))
    given = interface.arguments(part.inputs.to(device), part.labels.shape[-1])
    return interface.logits(model.eval()(**given)).float().cpu()


def _losses(logits: Tensor, labels: Tensor, task: OwnTask) -> Tensor:
    if task == "regression":
        return (logits[..., 0] - labels).square()[:, 0]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(labels.shape).sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def _tags(chosen: Tensor, right: Tensor, names: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    predicted, labels = [], []
    for said, wanted in zip(chosen, right, strict=True):
        places = (wanted != IGNORED).nonzero()[:, 0]
        predicted.append([names[int(said[place])] for place in places])
        labels.append([names[int(wanted[place])] for place in places])
    return predicted, labels


def _answers(model: Any, tokenizer: Any, examples: Examples) -> tuple[list[str], list[str]]:
    """What the model answers to each source, greedily, and what is right."""
    from transformers import GenerationConfig

    right = [labels[labels != IGNORED] for labels in examples.labels]
    references = [tokenizer.decode(answer, skip_special_tokens=True) for answer in right]
    generated, kind = [""] * len(references), kind_of(model)
    prompts = [_prompt(inputs, labels, kind) for inputs, labels in zip(examples.inputs, examples.labels, strict=True)]
    most = max(map(len, right)) + 8
    # Those of equal length together, so that nothing is padded.
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for places in _equal(order, prompts):
        ids = torch.stack([prompts[place] for place in places]).to(model.device)
        room = most if kind == "seq2seq" else max(1, min(most, _context(model) - ids.shape[1]))
        # Not the model's own settings, which may ask for beams or a least length.
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=room,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=decoder_start(model.config, tokenizer) if kind == "seq2seq" else None,
        )
        said = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        said = said if kind == "seq2seq" else said[:, ids.shape[1] :]
        for place, answer in zip(places, tokenizer.batch_decode(said, skip_special_tokens=True), strict=True):
            generated[place] = answer
    return generated, references


def _context(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 10**9)


def _prompt(inputs: Tensor, labels: Tensor, kind: str) -> Tensor:
    """The source alone, without padding and without what is to be said."""
    if kind == "seq2seq":
        source = inputs[: -len(labels)]
        return source[source != PADDING]
    return inputs[: int((labels != IGNORED).nonzero()[0]) + 1]


def _equal(order: Sequence[int], prompts: Sequence[Tensor]) -> Iterator[list[int]]:
    group: list[int] = []
    for place in order:
        if group and (len(prompts[place]) != len(prompts[group[0]]) or len(group) == AT_ONCE):
            yield group
            group = []
        group.append(place)
    if group:
        yield group
