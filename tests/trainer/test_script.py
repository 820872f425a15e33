"""A script as people write it around transformers.Trainer runs with one argument more, and nothing else changed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llmo.engine.models import ModelShape, model_config
from llmo.engine.own_models import fresh_model
from llmo.evaluation.own.export import save_model

SCRIPT = """
import llmo
import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments, set_seed,
)

set_seed(3)
tokenizer = AutoTokenizer.from_pretrained("base")
model = AutoModelForSequenceClassification.from_pretrained(
    "base", num_labels=2, id2label={0: "calm", 1: "loud"}, label2id={"calm": 0, "loud": 1}
)
remarks = load_dataset("json", data_files={"train": "train.jsonl", "test": "test.jsonl"})

def tokenize(examples):
    return tokenizer(examples["text"], truncation=True, max_length=64)

def accuracy(prediction):
    logits, labels = prediction
    return {"accuracy": float((np.argmax(logits, axis=-1) == labels).mean())}

remarks = remarks.map(tokenize, batched=True)
args = TrainingArguments(
    output_dir="trained", learning_rate=3e-3, per_device_train_batch_size=8, per_device_eval_batch_size=8,
    num_train_epochs=3, weight_decay=0.01, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
    metric_for_best_model="accuracy", report_to="none",
)
trainer = Trainer(
    model=model,
    args=args,
    train_dataset=remarks["train"],
    eval_dataset=remarks["test"],
    processing_class=tokenizer,
    data_collator=DataCollatorWithPadding(tokenizer=tokenizer),
    compute_metrics=accuracy,
    callbacks=[llmo.TrainerCallback()],
)
trainer.train()
print("scored", trainer.evaluate()["eval_accuracy"])
trainer.save_model("kept")
"""


def test_a_documented_script_runs_with_one_argument_more(
    tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    own = fresh_model("fresh", model_config(ModelShape(8, 1)), "causal_lm")
    save_model(own.build(None, 0), own.tokenizer, tmp_path / "base")
    for name, count in (("train", 96), ("test", 24)):
        rows = [{"text": f"they {('speak', 'shout')[n % 2]} of {n}", "label": n % 2} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = python("script.py", HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in (tmp_path / "trained" / "llmo_decisions.jsonl").read_text().splitlines()]
    # 36 steps in 18 intervals of two.
    assert [line["step"] for line in lines] == list(range(0, 36, 2))
    assert "llmo, step " in ran.stdout
    scored = float(ran.stdout.rpartition("scored ")[2])
    (last,) = (tmp_path / "trained").glob("checkpoint-36")
    state = json.loads((last / "trainer_state.json").read_text())
    # Of its own evaluations, at the ends of epochs, the trainer has loaded the best.
    assert scored == state["best_metric"] and state["best_global_step"] % 12 == 0
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "kept")
    assert kept.config.id2label == {0: "calm", 1: "loud"}
    assert AutoTokenizer.from_pretrained(tmp_path / "kept").decode([5]) == own.tokenizer.decode([5])
