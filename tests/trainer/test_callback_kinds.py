"""Models, data sets and schedulers that an agent can steer in a Trainer, and those that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from steered import RATE, STEPS, Sequences, decisions, model, trainer
from torch import Tensor
from transformers import (
    Trainer,
    TrainingArguments,
)

import llmo
from llmo.errors import LlmoError


def test_adapters_of_peft_are_trained_and_rolled_back(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    made = trainer(tmp_path, {4: "rate_x5", 5: "rate_x5", 6: "rate_x5", 7: "rollback"}, learning_rate=0.05)
    callback = next(c for c in made.callback_handler.callbacks if isinstance(c, llmo.TrainerCallback))
    adapted = get_peft_model(model(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj", "v_proj"]))
    frozen = adapted.base_model.model.model.embed_tokens.weight.clone()
    before = {name: p.clone() for name, p in adapted.named_parameters() if p.requires_grad}
    data = {"train_dataset": Sequences(400, 0), "eval_dataset": Sequences(64, 1)}
    Trainer(adapted, made.args, callbacks=[callback], **data).train()
    assert torch.equal(adapted.base_model.model.model.embed_tokens.weight, frozen)
    assert any(not torch.equal(p, before[name]) for name, p in adapted.named_parameters() if p.requires_grad)
    assert [line["action"] for line in decisions(tmp_path)[4:8]] == ["rate_x5", "rate_x5", "rate_x5", "rollback"]


def test_several_data_sets_are_decided_on_together(tmp_path: Path) -> None:
    """A roll back waits until each has been evaluated, and their losses count alike."""
    moves = {4: "rate_x5", 5: "rate_x5", 6: "rate_x5", 7: "rollback"}
    made = trainer(tmp_path, moves, lr_scheduler_type="constant", learning_rate=0.02)
    made.eval_dataset = {"a": Sequences(32, 1), "b": Sequences(32, 2)}  # type: ignore[assignment]
    made.compute_metrics = lambda prediction: {"hamming_loss": 77.0}
    made.train()
    logged = made.state.log_history
    losses = {
        step: [
            line[f"eval_{name}_loss"]
            for name in "ab"
            for line in logged
            if line.get(f"eval_{name}_loss") and line["step"] == step
        ]
        for step in range(0, STEPS, 2)
    }
    for line in decisions(tmp_path):
        assert line["validation_loss"] == pytest.approx(np.mean(losses[line["step"]]))
    assert min(losses[14]) > max(losses[16])


def test_a_scheduler_that_steps_at_evaluations_is_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, {}, lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="epoch", max_steps=-1)
    with pytest.raises(LlmoError, match="scheduler 'ReduceLROnPlateau'"):
        made.train()


def test_a_scheduler_that_writes_over_a_turned_rate_is_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, {})
    made.optimizer = torch.optim.AdamW(made.model.parameters(), RATE)  # type: ignore[union-attr]
    made.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(made.optimizer, RATE, total_steps=STEPS)
    with pytest.raises(LlmoError, match="scheduler 'OneCycleLR'"):
        made.train()


def test_a_model_in_parts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(tmp_path, {})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(LlmoError, match="kind of training 'FSDP'"):
        made.train()


def test_evaluations_without_a_loss_are_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, {})
    made.label_names = ["another"]
    with pytest.raises(LlmoError, match="evaluation 'without a loss'.*eval_loss"):
        made.train()


def test_an_encoder_reads_what_is_corrupted() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    from llmo.trainer.levers import Levers

    config = T5Config(
        vocab_size=40, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0, decoder_start_token_id=0
    )
    t5 = T5ForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(t5.parameters(), 1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    levers = Levers(TrainingArguments("none", report_to=[]), t5, optimizer, scheduler, 10, 0)
    met: list[Tensor] = []
    t5.get_encoder().get_input_embeddings().register_forward_hook(lambda module, given, output: met.append(given[0]))
    levers.apply("augment_noise")
    ids = torch.arange(1, 33)[None]
    t5(input_ids=ids, labels=ids)
    assert 0 < (met[0] != ids).sum() < 12


def test_any_module_is_steered(tmp_path: Path) -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = torch.nn.Embedding(40, 8), torch.nn.Linear(8, 2)

        def forward(self, input_ids: Tensor, labels: Tensor, **given: Any) -> dict[str, Tensor]:
            logits = self.out(self.table(input_ids[:, -1]))
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    made = trainer(tmp_path, {1: "rate_x5"})
    data = {"train_dataset": Sequences(400, 0), "eval_dataset": Sequences(64, 1)}
    callback = llmo.TrainerCallback(agent="scripted", decisions=7)
    Trainer(Plain(), made.args, callbacks=[callback], **data).train()
    assert len(decisions(tmp_path)) == 7


def test_agents_that_cannot_steer_are_refused() -> None:
    with pytest.raises(LlmoError, match="did you mean 'scripted'"):
        llmo.TrainerCallback(agent="script")
    for name in ("cosine", "search_1", "schedule_free", "pbt"):
        with pytest.raises(LlmoError, match="one that chooses actions alone"):
            llmo.TrainerCallback(agent=name)
