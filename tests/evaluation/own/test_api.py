"""`llmo.improve`, objects in and out: the same as the command."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import llmo
from llmo.cli import main
from llmo.engine.own_models import OwnModel, open_model
from llmo.errors import LlmoError

WORDS = "red green blue small large old new cat dog bird fish house".split()
LABELS = ("animal", "none")


def rows(count: int, seed: int) -> list[dict[str, str]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        words = [WORDS[int(place)] for place in torch.randint(len(WORDS), (4,), generator=generator)]
        animal = bool({"cat", "dog", "bird", "fish"} & set(words[:1]))
        found.append({"body": " ".join(words), "topic": LABELS[not animal]})
    return found


def opened(task: Any = "classification") -> OwnModel:
    return open_model("scratch:8x1", task)


COLUMNS = {"text": "body", "label": "topic"}
BUDGET = "3e8flops"


def test_it_does_what_the_command_does(tmp_path: Path) -> None:
    own = opened()
    model = own.build(LABELS, 0)
    before = [parameter.clone() for parameter in model.parameters()]
    said: list[str] = []
    result = llmo.improve(
        model, own.tokenizer, rows(200, 0), rows(40, 1), rows(40, 2),
        task="classification", budget=BUDGET, columns=COLUMNS, out=tmp_path / "api", say=said.append,
        agent="scripted",
    )  # fmt: skip
    assert result.after.metrics["loss"] < result.before.metrics["loss"]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    data = tmp_path / "data"
    data.mkdir()
    for name, count, seed in (("train", 200, 0), ("valid", 40, 1), ("test", 40, 2)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count, seed)))
    command = [
        "improve",
        "--model",
        "scratch:8x1",
        "--data",
        str(data),
        "--task",
        "classification",
        "--agent",
        "scripted",
    ]
    given = ["--budget", BUDGET, "--columns", "text=body,label=topic", "--out", str(tmp_path / "command")]
    assert main([*command, *given]) == 0
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "command" / "model")
    for ours, theirs in zip(result.model.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert (tmp_path / "api" / "report.html").exists()
    assert any(line.startswith("probe") for line in said)


def test_texts_are_data_and_nothing_need_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = opened("causal_lm")
    texts = [" ".join(row["body"] for row in rows(40, seed)) + "\n" for seed in range(12)]
    result = llmo.improve(own.build(None, 0), own.tokenizer, texts, task="causal_lm", budget=BUDGET, agent="keep")
    assert result.after.metrics["perplexity"] < result.before.metrics["perplexity"]
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused() -> None:
    own = opened()
    given: dict[str, Any] = {"task": "classification", "budget": BUDGET, "columns": COLUMNS}
    with pytest.raises(LlmoError, match="num_labels of the model 3"):
        llmo.improve(own.build(("a", "b", "c"), 0), own.tokenizer, rows(50, 0), **given)
    with pytest.raises(LlmoError, match="one of AutoModelForSequenceClassification"):
        llmo.improve(opened("causal_lm").build(None, 0), own.tokenizer, rows(50, 0), **given)
    with pytest.raises(LlmoError, match=r"train\[1\]"):
        llmo.improve(own.build(LABELS, 0), own.tokenizer, [rows(1, 0)[0], {"body": "x"}, rows(1, 1)[0]], **given)
    with pytest.raises(LlmoError, match="did you mean 'classification'"):
        llmo.improve(own.build(LABELS, 0), own.tokenizer, rows(50, 0), task="classify", budget=BUDGET)  # type: ignore[arg-type]
