"""A Trainer that an agent steers: resumed, and trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from steered import STEPS, agent_of, decisions, rates, trainer, weights

from llmo.trainer.steering import TENSORS


@pytest.mark.parametrize(("saved", "restored_by_trainer"), [(10, False), (10, True), (5, False)])
def test_a_resumed_training_is_the_same(
    tmp_path: Path, saved: int, restored_by_trainer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever its checkpoint was, where a decision is due or between two."""
    moves = {
        0: "decay_less", 1: "rate_x2", 2: "augment_noise", 3: "regularise_more", 4: "rate_default", 6: "rollback",
        7: "rate_decay", 8: "perturb_noise", 9: "memory_more",
    }  # fmt: skip
    settings = {
        "save_strategy": "steps", "save_steps": saved, "restore_callback_states_from_checkpoint": restored_by_trainer,
        "learning_rate": 0.05, "weight_decay": 0.01,
    }  # fmt: skip
    straight = trainer(tmp_path, moves, dropout=0.1, **settings)
    straight.train()
    made = decisions(tmp_path)
    assert (tmp_path / f"checkpoint-{saved}" / TENSORS).exists()
    seen = agent_of(straight).seen
    resumed = trainer(tmp_path, moves, dropout=0.1, **settings)
    agent = agent_of(resumed)
    if restored_by_trainer:
        # Trainer makes a new callback of the same arguments.
        monkeypatch.setattr("llmo.trainer.callback.tuning_agent", lambda name, policy: agent)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{saved}"))
    torch.testing.assert_close(weights(straight), weights(resumed), rtol=0, atol=0)
    assert made == decisions(tmp_path)
    np.testing.assert_array_equal(agent.seen, seen)
    assert [line["action"] for line in made if line["action"] != "keep"] == list(moves.values())


@pytest.mark.parametrize("saved", ["steps", "epoch"])
def test_losses_are_not_lost_by_a_checkpoint_between_two_logs(tmp_path: Path, saved: str) -> None:
    settings: dict[str, Any] = {
        "save_strategy": saved, "save_steps": 5, "logging_steps": 500, "max_steps": -1, "num_train_epochs": 3,
        "per_device_train_batch_size": 80,
    }  # fmt: skip
    straight = trainer(tmp_path, {}, **settings)
    straight.train()
    made = decisions(tmp_path)
    resumed = trainer(tmp_path, {}, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert made == decisions(tmp_path)
    np.testing.assert_array_equal(agent_of(resumed).seen, agent_of(straight).seen)


def test_a_second_training_begins_as_the_first_did(tmp_path: Path) -> None:
    made = trainer(tmp_path, {2: "rate_x2", 3: "regularise_more"}, dropout=0.02)
    made.train()
    first = rates(made)
    made.train()
    assert rates(made)[-STEPS:] == pytest.approx(first)
    assert made.optimizer.param_groups[0]["weight_decay"] == 0.0


def test_no_epochs_are_trained_as_without_an_agent(tmp_path: Path) -> None:
    made = trainer(tmp_path, {}, max_steps=-1, num_train_epochs=0)
    before = weights(made)
    made.train()
    torch.testing.assert_close(weights(made), before, rtol=0, atol=0)
