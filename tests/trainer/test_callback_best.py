"""Roll-backs and the best weights of a Trainer that an agent steers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from steered import decisions, rates, trainer, weights


def test_a_roll_back_goes_to_the_best_and_halves_the_rate(tmp_path: Path) -> None:
    """A rate that destroys the model is undone, and training goes on from there."""
    moves = {4: "rate_x5", 5: "rate_x5", 6: "rate_x5", 7: "rollback"}
    made = trainer(tmp_path, moves, lr_scheduler_type="constant", learning_rate=0.02)
    made.train()
    losses = {line["step"]: line["eval_loss"] for line in made.state.log_history if "eval_loss" in line}
    best = min((loss, step) for step, loss in losses.items() if step <= 12)
    assert losses[14] > best[0]
    assert rates(made)[14:] == pytest.approx([rates(made)[best[1] - 1] / 2] * 6)
    assert decisions(tmp_path)[7]["action"] == "rollback"
    assert losses[16] < losses[14]


def test_the_model_has_the_weights_that_validated_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trainer(
        tmp_path, {6: "rate_x5", 7: "rate_x5", 8: "rate_x5"}, lr_scheduler_type="constant", learning_rate=0.02
    )
    made.train()
    losses = [line["eval_loss"] for line in made.state.log_history if "eval_loss" in line]
    assert min(losses) < losses[-1]
    assert made.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)
    assert "the weights that validated best" in capsys.readouterr().out


@pytest.mark.parametrize("spoiled", [1, 5])
def test_a_loss_that_is_no_number_is_undone(tmp_path: Path, spoiled: int) -> None:
    """Also where nothing but the untrained model is there to go back to, which has no moments yet."""
    made = trainer(tmp_path, {}, lr_scheduler_type="constant")

    class Spoil(type(made.callback_handler.callbacks[0])):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == spoiled:
                made.model.score.weight.data.fill_(float("nan"))  # type: ignore[union-attr]

    made.add_callback(Spoil())
    made.train()
    lines = decisions(tmp_path)
    undone = spoiled // 2 + 1
    assert (lines[undone]["action"], lines[undone]["validation_loss"]) == ("rollback", None)
    assert all(line["action"] == "keep" for line in lines[undone + 1 :])
    assert lines[-1]["validation_loss"] < lines[0]["validation_loss"]


def test_an_agent_may_stop_and_the_model_has_what_validated_best(tmp_path: Path) -> None:
    made = trainer(tmp_path, {6: "stop"})
    made.train()
    lines = decisions(tmp_path)
    assert [line["action"] for line in lines] == ["keep"] * 6 + ["stop"]
    # Trainer ends with the step that has begun.
    assert made.state.global_step == 13 < made.state.max_steps
    losses = [line["validation_loss"] for line in lines]
    assert losses[-1] == min(losses)
    assert made.evaluate()["eval_loss"] == pytest.approx(losses[-1], rel=1e-6)
    short = trainer(tmp_path / "short", {}, max_steps=12, lr_scheduler_type="constant")
    same = trainer(tmp_path / "same", {6: "stop"}, lr_scheduler_type="constant")
    for one in (short, same):
        one.train()
    torch.testing.assert_close(weights(same), weights(short), rtol=0, atol=0)


def test_the_best_of_the_trainer_is_its_own(tmp_path: Path) -> None:
    """Evaluations in between do not make it forget which of its checkpoints was the best."""
    settings: dict[str, Any] = {
        "eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5, "learning_rate": 0.05,
        "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": True,
    }  # fmt: skip
    found = []
    for name, moves in (("plain", None), ("kept", {})):
        made = trainer(tmp_path / name, moves, **settings)
        made.compute_metrics = lambda prediction: {"accuracy": (prediction[0].argmax(1) == prediction[1]).mean()}
        made.train()
        checkpoint = Path(made.state.best_model_checkpoint or "").name
        found.append((made.state.best_metric, made.state.best_global_step, checkpoint, weights(made)))
    assert found[0][:3] == found[1][:3]
    torch.testing.assert_close(found[0][3], found[1][3], rtol=0, atol=0)


@pytest.mark.parametrize("saved", ["epoch", "best"])
def test_the_best_of_the_trainer_is_not_forgotten(tmp_path: Path, saved: str) -> None:
    """Neither where an epoch ends with one of llmo's evaluations, nor where each of them may be saved."""
    settings: dict[str, Any] = {
        "eval_strategy": "epoch", "save_strategy": saved, "max_steps": -1, "num_train_epochs": 3,
        "per_device_train_batch_size": 100, "load_best_model_at_end": True, "metric_for_best_model": "accuracy",
        "greater_is_better": True,
    }  # fmt: skip
    made = trainer(tmp_path, {}, **settings)
    accuracies = [0.1, 0.5, 0.6, 0.7, 0.9, 0.2, 0.4, 0.3, 0.8, 0.2, 0.6, 0.3, 0.7]
    made.compute_metrics = lambda prediction: {"accuracy": accuracies[made.state.global_step]}
    made.train()
    assert (made.state.best_metric, Path(made.state.best_model_checkpoint or "").name) == (0.9, "checkpoint-4")


def test_a_training_that_has_ended_is_not_decided_on(tmp_path: Path) -> None:
    """Not even to roll back what the trainer has loaded as its best, nor after the agent has ended it."""
    settings: dict[str, Any] = {
        "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4, "learning_rate": 0.05,
        "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": True,
    }  # fmt: skip
    made = trainer(tmp_path, {8: "rollback"}, **settings)
    accuracies = {4: 0.9, 8: 0.8, 12: 0.7, 16: 0.6}
    made.compute_metrics = lambda prediction: {"accuracy": accuracies.get(made.state.global_step, 0.0)}

    class End(type(made.callback_handler.callbacks[0])):  # type: ignore[misc]
        def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            control.should_training_stop = state.global_step == 16

    made.add_callback(End())
    made.train()
    assert [line["step"] for line in decisions(tmp_path)] == list(range(0, 16, 2))
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    now = made.model.state_dict()  # type: ignore[union-attr]
    torch.testing.assert_close({name: now[name] for name in saved}, saved, rtol=0, atol=0)
    stopped = trainer(tmp_path / "stopped", {6: "stop"}, max_steps=10)
    stopped.train()
    assert [line["action"] for line in decisions(tmp_path / "stopped")] == ["keep"] * 6 + ["stop"]


def test_what_a_script_does_outside_of_training_is_its_own(tmp_path: Path) -> None:
    made = trainer(tmp_path, {})
    before = made.evaluate()["eval_loss"]
    made.train()
    assert decisions(tmp_path)[0]["validation_loss"] == before
    made.args.max_grad_norm = 0.25
    made.train()
    assert made.args.max_grad_norm == 0.25
