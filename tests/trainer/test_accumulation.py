"""Why the batch is not turned inside Trainer: what it does when accumulation changes under way.

Where these fail, transformers has changed, and `batch_double` and `batch_halve` may apply after all.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from llmo.trainer.steering import STEERED

BATCHES, EPOCHS = 12, 2


class Turn(TrainerCallback):
    """Changes accumulation before an update, as an agent would."""

    def __init__(self, update: int, to: int) -> None:
        self.update, self.to = update, to

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == self.update:
            args.gradient_accumulation_steps = self.to


def updates(folder: Path, begin: int, update: int, to: int) -> tuple[list[tuple[int, int]], Trainer]:
    """Of each update how many batches it has seen, and by how many their losses were divided."""
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=40, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0
    )
    rows = [{"input_ids": torch.arange(1, 5) + place % 30, "labels": place % 2} for place in range(BATCHES)]
    args = TrainingArguments(
        str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=1, gradient_accumulation_steps=begin,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    made = Trainer(
        LlamaForSequenceClassification(config),
        args,
        train_dataset=rows,
        callbacks=[Turn(update, to)],  # type: ignore[arg-type]
    )
    found, batches, inner = [], 0, made.training_step

    def step(*given: Any) -> torch.Tensor:
        nonlocal batches
        batches += 1
        return inner(*given)

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
            nonlocal batches
            found.append((batches, made.current_gradient_accumulation_steps))
            batches = 0

    made.training_step = step  # type: ignore[method-assign]
    made.add_callback(Look())
    made.train()
    return found, made


def test_less_accumulation_gives_no_more_updates(tmp_path: Path) -> None:
    found, made = updates(tmp_path, 2, 2, 1)
    assert len(found) == made.state.max_steps == BATCHES * EPOCHS // 2
    assert sum(batches for batches, _ in found) < 0.7 * BATCHES * EPOCHS


def test_a_turn_between_two_multiples_steps_on_a_part_of_a_batch(tmp_path: Path) -> None:
    found, _ = updates(tmp_path, 1, 4, 2)
    assert (1, 2) in found


def test_the_batch_is_not_on_the_menu() -> None:
    assert not {"batch_double", "batch_halve"} & set(STEERED)
