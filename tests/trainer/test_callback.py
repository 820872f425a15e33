"""What an agent inside transformers.Trainer turns, what it leaves alone, and what it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from steered import RATE, STEPS, Sequences, agent_of, decisions, rates, trainer, weights
from torch import Tensor

from llmo.diagnostics.features import INDEX
from llmo.hyperparameters import DROPOUT_LEVELS, WEIGHT_DECAY_LEVELS


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


def test_the_default_rate_is_that_of_the_optimizer(tmp_path: Path) -> None:
    made = trainer(tmp_path, {3: "rate_x2", 5: "rate_default"})
    optimizer = torch.optim.AdamW(made.model.parameters(), 0.01)  # type: ignore[union-attr]
    made.optimizer, made.lr_scheduler = optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    agent = agent_of(made)
    made.train()
    assert rates(made) == pytest.approx([0.01] * 6 + [0.02] * 4 + [0.01] * 10)
    assert (agent.seen[0][INDEX["rate"]], agent.seen[0][INDEX["decaying"]]) == (0, 0)


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
