"""What predictions on a split are worth, in the numbers that people report for each task."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from llmo.errors import needs_extra

ENTITY = re.compile(r"O|[BIES]-.+")
"""Tags of entities: outside, or a part of one of some kind."""
BINS = 15
"""Of confidence, for the calibration error (Guo et al. 2017)."""
LOWER_IS_BETTER = frozenset({"loss", "perplexity", "mse", "ece"})
"""All other metrics are better when higher."""


def language_metrics(loss: float) -> dict[str, float]:
    """Loss in nats per token, and perplexity."""
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def class_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Cross-entropy, accuracy, macro F1, Matthews' correlation and expected calibration error.

    Args:
        logits: [N, C].
        labels: Classes, [N].
    """
    needs_extra("metrics", "torchmetrics", "own")
    from torchmetrics.functional import classification as tm

    classes = logits.shape[1]
    probabilities, chosen = logits.softmax(1), logits.argmax(1)
    return {
        "loss": torch.nn.functional.cross_entropy(logits, labels).item(),
        "accuracy": tm.multiclass_accuracy(chosen, labels, classes, average="micro").item(),
        "macro_f1": tm.multiclass_f1_score(chosen, labels, classes, average="macro").item(),
        "matthews": tm.multiclass_matthews_corrcoef(chosen, labels, classes).item(),
        "ece": tm.multiclass_calibration_error(probabilities, labels, classes, n_bins=BINS).item(),
    }


def number_metrics(predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean squared error of predictions [N] and labels [N]."""
    mse = (predictions.double() - labels.double()).square().mean().item()
    return {"loss": mse, "mse": mse}


def tag_metrics(predicted: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], loss: float) -> dict[str, float]:
    """Precision, recall and F1 of entities, each by itself and on average, as seqeval has them (Nakayama 2018).

    Of tags that are no parts of entities, accuracy and macro F1 alone.

    Args:
        predicted: Tags of each sequence's words, such as ``B-person``.
        labels: The right ones.
        loss: Cross-entropy, nats per word.
    """
    needs_extra("metrics", "seqeval", "own")
    from seqeval.metrics import accuracy_score, classification_report
    from sklearn.metrics import f1_score

    flat = [[tag for tags in part for tag in tags] for part in (labels, predicted)]
    if not all(ENTITY.fullmatch(tag) for tag in flat[0]):
        f1 = float(f1_score(*flat, average="macro", zero_division=0))
        return {"loss": loss, "accuracy": float(accuracy_score(labels, predicted)), "macro_f1": f1}
    report = classification_report(labels, predicted, output_dict=True, zero_division=0)
    found = {"loss": loss, "accuracy": float(accuracy_score(labels, predicted))}
    for entity, row in report.items():
        prefix = "" if entity == "micro avg" else f"{entity.replace(' avg', '')}_"
        found |= {
            f"{prefix}{name.replace('f1-score', 'f1')}": float(row[name])
            for name in ("precision", "recall", "f1-score")
        }
    return found


def text_metrics(generated: Sequence[str], references: Sequence[str], loss: float) -> dict[str, float]:
    """Loss in nats per token, BLEU by sacrebleu (Post 2018), and the share of answers that are right as a whole.

    Args:
        generated: Answers.
        references: The right ones. Where most of them have no spaces, BLEU counts characters.
        loss: Cross-entropy, nats per token.
    """
    needs_extra("metrics", "sacrebleu", "own")
    import sacrebleu

    spaced = sum(" " in text.strip() for text in references)
    tokenize = "13a" if 2 * spaced >= len(references) else "char"
    exact = sum(a.strip() == b.strip() for a, b in zip(generated, references, strict=True))
    bleu = sacrebleu.corpus_bleu(list(generated), [list(references)], tokenize=tokenize).score
    return {**language_metrics(loss), "bleu": bleu, "exact_match": exact / len(references)}
