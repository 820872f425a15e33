"""An agent inside transformers.Trainer: what it turns, what it leaves alone, and that resumed training is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    Trainer,
    TrainingArguments,
)

import llmo
from llmo.agent import Agent
from llmo.diagnostics.features import INDEX
from llmo.errors import LlmoError
from llmo.hyperparameters import DROPOUT_LEVELS, WEIGHT_DECAY_LEVELS
from llmo.trainer.callback import RECORD
from llmo.trainer.steering import TENSORS

STEPS, RATE = 20, 1e-3


class Sequences(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The class is whether the last token is above 20."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, 40, (count, 8), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": (ids[-1] > 20).long()}


class Told(Agent):
    """Does what it is told, by number of the decision."""

    def __init__(self, moves: dict[int, str]) -> None:
        self.moves = moves

    def reset(self, seeds: Any) -> None:
        super().reset(seeds)
        self.asked = 0
        self.seen: list[NDArray[np.float32]] = []
        self.masks: list[NDArray[np.bool_]] = []

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        assert bool(episode_start[0]) == (self.asked == 0)
        self.seen.append(observation[0])
        self.masks.append(mask[0])
        move = self.moves.get(self.asked, "keep")
        self.asked += 1
        return np.array([self.space.action(move)])

    def explain(self) -> list[str]:
        return ["told to"]


def model(dropout: float | None = None) -> Any:
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, num_labels=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForSequenceClassification.from_config(config)
    if dropout is not None:
        made.model.layers[0].mlp.act_fn = torch.nn.Sequential(
            made.model.layers[0].mlp.act_fn, torch.nn.Dropout(dropout)
        )
    return made


def trainer(
    folder: Path, moves: dict[int, str] | None = None, dropout: float | None = None, **settings: Any
) -> Trainer:
    args: dict[str, Any] = {
        "max_steps": STEPS, "per_device_train_batch_size": 8, "learning_rate": RATE, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "seed": 1, "logging_steps": 1,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    torch.set_num_threads(1)
    made = Trainer(
        model(dropout),
        TrainingArguments(str(folder), **{**args, **settings}),
        train_dataset=Sequences(400, 0),
        eval_dataset=Sequences(64, 1),
    )
    if moves is not None:
        callback = llmo.TrainerCallback(agent="keep", decisions=10)
        callback._agent = Told(moves)
        made.add_callback(callback)
    return made


def agent_of(made: Trainer) -> Told:
    agent = next(c for c in made.callback_handler.callbacks if isinstance(c, llmo.TrainerCallback))._agent
    assert isinstance(agent, Told)
    return agent


def rates(made: Trainer) -> list[float]:
    return [line["learning_rate"] for line in made.state.log_history if "loss" in line]


def weights(made: Trainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in made.model.named_parameters()}  # type: ignore[union-attr]


def decisions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]


def test_an_agent_that_keeps_changes_nothing(tmp_path: Path) -> None:
    plain, kept = trainer(tmp_path / "plain"), trainer(tmp_path / "kept", {})
    for made in (plain, kept):
        made.train()
    torch.testing.assert_close(weights(plain), weights(kept), rtol=0, atol=0)
    assert rates(plain) == rates(kept)
    evaluations = [line["step"] for line in kept.state.log_history if "eval_loss" in line]
    assert evaluations == list(range(0, STEPS + 1, 2))
    lines = decisions(tmp_path / "kept")
    assert [line["step"] for line in lines] == evaluations[:-1]
    losses = [line["eval_loss"] for line in kept.state.log_history if "eval_loss" in line]
    assert [line["validation_loss"] for line in lines] == losses[:-1]


def test_the_rate_stays_turned(tmp_path: Path) -> None:
    """By the schedule of the script: linear to zero, here with a warmup."""
    made = trainer(tmp_path, {2: "rate_x2", 5: "rate_x0.5"}, warmup_steps=4)
    plain = trainer(tmp_path / "plain", warmup_steps=4)
    made.train()
    plain.train()
    factors = [2.0 if 4 <= step < 10 else 1.0 for step in range(STEPS)]
    assert rates(made) == pytest.approx([rate * factor for rate, factor in zip(rates(plain), factors, strict=True)])


def test_a_decay_begins_and_ends_where_it_is_asked_for(tmp_path: Path) -> None:
    made = trainer(tmp_path, {5: "rate_decay", 8: "rate_default"}, lr_scheduler_type="constant")
    made.train()
    wanted = [RATE] * 10 + [RATE * (STEPS - step) / 10 for step in range(10, 16)] + [RATE] * 4
    assert rates(made) == pytest.approx(wanted)


def test_the_default_ends_the_decay_of_the_script(tmp_path: Path) -> None:
    made = trainer(tmp_path, {3: "rate_default"})
    made.train()
    assert rates(made) == pytest.approx([RATE * (STEPS - step) / STEPS for step in range(6)] + [RATE] * 14)


def test_regularisation_is_turned_and_given_back(tmp_path: Path) -> None:
    made = trainer(tmp_path, {0: "regularise_more", 1: "regularise_more", 2: "regularise_more"}, dropout=0.02)
    (dropout,) = [module for module in made.model.modules() if isinstance(module, torch.nn.Dropout)]  # type: ignore[union-attr]
    seen = []

    class Look(type(made.callback_handler.callbacks[0])):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            groups = [group["weight_decay"] for group in made.optimizer.param_groups]
            seen.append((groups, dropout.p))

    made.add_callback(Look())
    made.train()
    for decision, step in ((1, 2), (2, 4)):
        level = decision + 1
        groups, p = seen[step]
        assert groups == [WEIGHT_DECAY_LEVELS[level], 0.0]
        assert p == max(0.02, DROPOUT_LEVELS[level])
    assert dropout.p == 0.02


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


def test_inputs_are_corrupted_in_training_alone(tmp_path: Path) -> None:
    made = trainer(tmp_path, {0: "augment_noise", 9: "augment_off"})
    met: dict[bool, list[Tensor]] = {True: [], False: []}

    def note(module: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        met[module.training].append(given[0].clone())

    made.model.get_input_embeddings().register_forward_hook(note)  # type: ignore[union-attr]
    made.train()
    known = {tuple(row.tolist()) for row in Sequences(400, 0).ids}
    changed = [tuple(row.tolist()) not in known for batch in met[True] for row in batch]
    # Of eight tokens one in ten: 57% of the sequences, but for those that are noise by chance the same.
    assert 0.4 < np.mean(changed[:144]) < 0.7
    assert not any(changed[144:])
    held_out = {tuple(row.tolist()) for row in Sequences(64, 1).ids}
    assert all(tuple(row.tolist()) in held_out for batch in met[False] for row in batch)


def test_clipping_moments_and_decay_are_turned_apart_and_given_back(tmp_path: Path) -> None:
    moves = {1: "clip_more", 2: "momentum_more", 3: "memory_more", 4: "decay_more", 5: "dropout_more", 6: "clip_less"}
    made = trainer(tmp_path, moves, dropout=0.02, max_grad_norm=2.0, adam_beta2=0.99, weight_decay=0.01)
    (dropout,) = [module for module in made.model.modules() if isinstance(module, torch.nn.Dropout)]  # type: ignore[union-attr]
    seen = []

    class Look(type(made.callback_handler.callbacks[0])):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            group = made.optimizer.param_groups[0]
            seen.append((args.max_grad_norm, *group["betas"], group["weight_decay"], dropout.p))

    made.add_callback(Look())
    made.train()
    start = (2.0, 0.9, 0.99, 0.01, 0.02)
    # Clipping to a third; half of 1 - beta 1, a fifth of 1 - beta 2; one level more of each.
    wanted = [start, (0.6, *start[1:]), (0.6, 0.95, *start[2:]), (0.6, 0.95, 0.998, *start[3:])]
    wanted += [(0.6, 0.95, 0.998, 0.03, 0.02), (0.6, 0.95, 0.998, 0.03, 0.05), (2.0, 0.95, 0.998, 0.03, 0.05)]
    assert [seen[step] for step in range(0, 14, 2)] == [pytest.approx(one) for one in wanted]
    assert made.args.max_grad_norm == 2.0 and dropout.p == 0.02
    assert made.optimizer.param_groups[0]["betas"] == pytest.approx((0.9, 0.99))


def test_embeddings_get_noise_in_training_alone(tmp_path: Path) -> None:
    made = trainer(tmp_path, {0: "perturb_noise", 5: "perturb_off"})
    met: dict[bool, list[float]] = {True: [], False: []}

    class Look(type(made.callback_handler.callbacks[0])):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **given: Any) -> None:
            embedding = made.model.get_input_embeddings()  # type: ignore[union-attr]

            def note(module: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
                plain = module.weight[given[0]]
                met[module.training].append(float((output - plain).norm() / plain.norm()))

            embedding.register_forward_hook(note)

    made.add_callback(Look())
    made.train()
    assert met[True][:10] == pytest.approx([0.1] * 10, rel=0.2)
    assert max(met[True][10:]) == 0 == max(met[False])


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


def test_a_second_training_begins_as_the_first_did(tmp_path: Path) -> None:
    made = trainer(tmp_path, {2: "rate_x2", 3: "regularise_more"}, dropout=0.02)
    made.train()
    first = rates(made)
    made.train()
    assert rates(made)[-STEPS:] == pytest.approx(first)
    assert made.optimizer.param_groups[0]["weight_decay"] == 0.0


def test_what_a_script_does_outside_of_training_is_its_own(tmp_path: Path) -> None:
    made = trainer(tmp_path, {})
    before = made.evaluate()["eval_loss"]
    made.train()
    assert decisions(tmp_path)[0]["validation_loss"] == before
    made.args.max_grad_norm = 0.25
    made.train()
    assert made.args.max_grad_norm == 0.25


def test_the_default_rate_is_that_of_the_optimizer(tmp_path: Path) -> None:
    made = trainer(tmp_path, {3: "rate_x2", 5: "rate_default"})
    optimizer = torch.optim.AdamW(made.model.parameters(), 0.01)  # type: ignore[union-attr]
    made.optimizer, made.lr_scheduler = optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    agent = agent_of(made)
    made.train()
    assert rates(made) == pytest.approx([0.01] * 6 + [0.02] * 4 + [0.01] * 10)
    assert (agent.seen[0][INDEX["rate"]], agent.seen[0][INDEX["decaying"]]) == (0, 0)


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


def test_no_epochs_are_trained_as_without_an_agent(tmp_path: Path) -> None:
    made = trainer(tmp_path, {}, max_steps=-1, num_train_epochs=0)
    before = weights(made)
    made.train()
    torch.testing.assert_close(weights(made), before, rtol=0, atol=0)


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


def test_what_is_seen_is_what_happened(tmp_path: Path) -> None:
    made = trainer(tmp_path, {2: "rate_x2"})
    agent = agent_of(made)
    made.train()
    lines = decisions(tmp_path)
    for step, seen in enumerate(agent.seen):
        assert seen[INDEX["spent"]] == pytest.approx(2 * (2 * step / STEPS) - 1)
        if step:
            gain = 10 * np.log(lines[step - 1]["validation_loss"] / lines[step]["validation_loss"])
            assert seen[INDEX["gain_1"]] == pytest.approx(gain, abs=1e-4)
        if step == 3:
            # Two steps after the rate was doubled; the script's decay goes on, and what is clipped is said.
            norms = [line["grad_norm"] for line in made.state.log_history if "loss" in line and line["step"] in (5, 6)]
            assert seen[INDEX["clipped"]] == np.mean([norm > 1 for norm in norms])
            assert seen[INDEX["rate"]] == pytest.approx(np.log10(2 * (1 - 6 / STEPS)), abs=1e-4)
            assert seen[INDEX["action_1_rate_x2"]] == 1
    names = [name for name in INDEX if name.startswith("source")]
    assert all(seen[INDEX[name]] == 0 for seen in agent.seen for name in names)


def test_a_gradient_that_overflows_is_not_remembered(tmp_path: Path) -> None:
    """As the first ones in float16, whose step is skipped; what is logged of them is no number either."""
    made = trainer(tmp_path, {}, max_grad_norm=0.0)

    class Overflow(type(made.callback_handler.callbacks[0])):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step < 2:
                made.model.score.weight.grad.fill_(float("inf"))  # type: ignore[union-attr]

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step < 2:
                made.model.load_state_dict(whole)  # type: ignore[union-attr]
                made.optimizer.state.clear()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if state.global_step <= 2:
                logs.pop("grad_norm", None)

    whole = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}  # type: ignore[union-attr]
    made.callback_handler.callbacks.insert(0, Overflow())
    agent = agent_of(made)
    made.train()
    assert agent.seen[1][INDEX["norm_trend"]] == 0 and all(seen[INDEX["norm_trend"]] != 0 for seen in agent.seen[2:])


def test_agents_that_cannot_steer_are_refused() -> None:
    with pytest.raises(LlmoError, match="did you mean 'scripted'"):
        llmo.TrainerCallback(agent="script")
    for name in ("cosine", "search_1", "schedule_free", "pbt"):
        with pytest.raises(LlmoError, match="one that chooses actions alone"):
            llmo.TrainerCallback(agent=name)
