"""Metrics are those of closed forms and of scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from llmo.tasks.metrics import class_metrics, language_metrics, number_metrics, tag_metrics, text_metrics


def test_class_metrics_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 5, generator=generator), torch.randint(5, (200,), generator=generator)
    found, chosen = class_metrics(logits, labels), logits.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, chosen))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, chosen, average="macro"))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(labels, chosen), abs=1e-6)
    probabilities = logits.softmax(1).numpy()
    assert found["loss"] == pytest.approx(-np.log(probabilities[np.arange(200), labels]).mean(), rel=1e-5)
    # Guo et al. 2017, equation 3.
    confidence, right = probabilities.max(1), (chosen == labels).numpy()
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    assert found["ece"] == pytest.approx(sum(gaps), abs=1e-5)


def test_numbers_and_language() -> None:
    assert number_metrics(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]))["mse"] == 2.5
    assert language_metrics(math.log(7))["perplexity"] == pytest.approx(7)
    assert language_metrics(math.inf)["perplexity"] < math.inf


def test_entities_count_as_wholes() -> None:
    labels = [["B-person", "I-person", "O", "B-place"], ["O", "B-person"]]
    predicted = [["B-person", "O", "O", "B-place"], ["O", "B-person"]]
    found = tag_metrics(predicted, labels, 0.5)
    # Two of three entities are found, and two of three that were said are right.
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert found["person_f1"] == pytest.approx(0.5) and found["place_f1"] == 1.0
    assert found["macro_f1"] == pytest.approx(0.75)
    assert found["accuracy"] == pytest.approx(5 / 6)


def test_tags_that_are_no_entities_count_one_by_one() -> None:
    found = tag_metrics([["NOUN", "VERB"]], [["NOUN", "NOUN"]], 0.5)
    assert found == {"loss": 0.5, "accuracy": 0.5, "macro_f1": pytest.approx(1 / 3)}


def test_answers_are_compared_as_text() -> None:
    same = text_metrics(["the cat sat on the mat"], ["the cat sat on the mat"], 1.0)
    assert same["bleu"] == pytest.approx(100) and same["exact_match"] == 1
    other = text_metrics(["the cat sat on a mat", "yes"], ["the cat sat on the mat", "yes "], 1.0)
    assert 0 < other["bleu"] < 100 and other["exact_match"] == 0.5
    # Without spaces between words, characters count.
    assert text_metrics(["我会在七点钟来"], ["我会在七点钟回来"], 1.0)["bleu"] > 40
