"""What `test_launched.py` runs under `accelerate launch`: a Trainer with an agent inside; each rank says what it has.

accelerate launch ... tests/trainer/launched.py OUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, Trainer, TrainingArguments

import llmo


def main(out: Path) -> None:
    """Train, and write this rank's decisions and the sum of its weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, num_labels=2,
    )  # fmt: skip
    ids = torch.randint(1, 40, (400, 8), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": int(row[-1] > 20)} for row in ids]
    args = TrainingArguments(
        str(out), max_steps=20, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, ddp_backend="gloo",
    )  # fmt: skip
    trainer = Trainer(
        AutoModelForSequenceClassification.from_config(config),
        args,
        train_dataset=data[:300],  # type: ignore[arg-type]
        eval_dataset=data[300:],  # type: ignore[arg-type]
        # Each rank would choose other actions.
        callbacks=[llmo.TrainerCallback(agent="random", decisions=10, seed=int(os.environ["RANK"]))],
    )
    trainer.train()
    actions = [line["llmo_action"] for line in trainer.state.log_history if "llmo_action" in line]
    weights = float(sum(parameter.double().abs().sum() for parameter in trainer.model.parameters()))  # type: ignore[union-attr]
    out.mkdir(exist_ok=True)
    (out / f"rank-{os.environ['RANK']}.json").write_text(json.dumps({"actions": actions, "weights": weights}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
