"""What settings of the whole menu do to a run, against torch's own losses, averages and counters."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

from llmo.budget import input_gradient_cost
from llmo.engine.anchor import STRENGTH, importance
from llmo.engine.executors import Batch
from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.selecting import choose
from llmo.engine.state import Problem
from llmo.evaluation.compare import difference
from llmo.tasks.causal_lm import CausalLM

SHAPE = ModelShape(8, 2)
MakeProblem = Callable[..., Problem]


def started(problem: Problem, executor: str = "single") -> Run:
    run = Run(build_model(SHAPE, 0), 1, executor)
    run.load(0, problem)
    run.evaluate([0])
    return run


def plain(run: Run, weights: torch.Tensor | None = None) -> Any:
    """The same model as a module of transformers."""
    model = build_model(SHAPE, 0)
    row = run.effective([0])[0] if weights is None else weights
    for parameter, value in zip(model.parameters(), run.layout.unflatten(row).values()):
        parameter.data.copy_(value)
    return model


def test_smoothed_labels_are_torchs(make_problem: MakeProblem) -> None:
    problem = make_problem(smoothing=2)
    run = started(problem)
    lane = run._lane(0, {0: 1})
    batch = run._next_batch([lane], run.effective([0]), run.rows[0].averaged[None])
    logits = torch.randn(1, 2, 8, 512, requires_grad=True)
    trained, _ = batch.losses(logits)
    (found,) = torch.autograd.grad(trained.mean(), logits)
    smooth = cross_entropy(logits.flatten(0, 2), batch.labels.flatten(), label_smoothing=0.1)
    (expected,) = torch.autograd.grad(smooth, logits)
    torch.testing.assert_close(found, expected)


def test_a_temperature_is_hintons() -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 3, 5, 11), torch.randn(2, 3, 5, 11)
    labels = torch.randint(11, (2, 3, 5))
    heat, share = torch.tensor([2.0, 4.0]), torch.tensor([0.5, 0.3])
    soft = (teacher / heat.view(-1, 1, 1, 1)).softmax(-1)
    batch = Batch(labels, labels, CausalLM.loss, None, soft, share, heat)
    trained, reported = batch.losses(logits)
    for row in range(2):
        hard = cross_entropy(logits[row].transpose(1, 2), labels[row], reduction="none")
        t = heat[row]
        apart = kl_div((logits[row] / t).log_softmax(-1), (teacher[row] / t).softmax(-1), reduction="none").sum(-1)
        torch.testing.assert_close(trained[row], (1 - share[row]) * hard + share[row] * t**2 * apart)
        torch.testing.assert_close(reported[row], hard)


@pytest.mark.parametrize("executor", ["single", "batched"])
def test_accumulated_batches_are_one_large_batch(make_problem: MakeProblem, executor: str) -> None:
    """Two updates of two batches each against torch on both at once."""
    problem = make_problem(accumulation=1, regularisation=0, learning_rate=0.01)
    run = started(problem, executor)
    model = plain(run)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, betas=(0.9, 0.95), weight_decay=0.0)
    drawn = run._lane(0, {0: 4}).interval
    for first in (0, 2):
        inputs, labels = (part[first : first + 2].flatten(0, 1) for part in (drawn.inputs, drawn.labels))
        cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), labels.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    run.train([0])
    expected = run.layout.flatten(model)
    torch.testing.assert_close(run.rows[0].weights[: run.layout.size], expected, rtol=0, atol=2e-5)
    assert run.rows[0].full.steps.item() == 2


def test_the_mean_of_weights_is_that_of_swa_utils(make_problem: MakeProblem) -> None:
    run = started(make_problem(learning_rate=0.01))
    run.train([0])
    run.evaluate([0])
    run.collect(0)
    averaged = AveragedModel(plain(run))
    averaged.update_parameters(plain(run))
    for _ in range(3):
        run.train([0])
        run.evaluate([0])
        averaged.update_parameters(plain(run))
    run.load_collected(0)
    expected = run.layout.flatten(averaged.module)
    torch.testing.assert_close(run.effective([0])[0, : run.layout.size], expected, rtol=0, atol=1e-6)
    assert run.states[0].collected == 0 and run.rows[0].kept("collected") is None


def test_a_soup_keeps_what_validates_no_worse_and_is_charged(make_problem: MakeProblem) -> None:
    run = started(make_problem(learning_rate=0.02, interval=6, budget=1e12))
    for name in ("1", "2"):
        run.train([0])
        run.evaluate([0])
        run.save(0, name)
    run.rows[0].own_full().values.mul_(4)
    run.evaluate([0])
    state = run.states[0]
    examples, spent = state.problem.task.validation, state.spent

    def score(weights: torch.Tensor) -> float:
        with torch.no_grad():
            logits = plain(run, weights)(input_ids=examples.inputs).logits
        return float(cross_entropy(logits.flatten(0, 1), examples.labels.flatten()))

    candidates = [run.saved_weights(0, name) for name in sorted("12", key=lambda name: state.registers[name][3])]
    candidates += [run.effective([0])[0].clone(), run.rows[0].averaged.clone()]
    soup = [run.saved_weights(0, "best")]
    for candidate in candidates:
        if score(torch.stack([*soup, candidate]).mean(0)) <= score(torch.stack(soup).mean(0)):
            soup.append(candidate)
    run.load_soup(0)
    torch.testing.assert_close(run.effective([0])[0], torch.stack(soup).mean(0), rtol=1e-4, atol=1e-5)
    assert state.spent - spent == pytest.approx(4 * run.evaluation_cost(0))


def test_registers_hold_what_was_there_and_no_budget_comes_back(make_problem: MakeProblem) -> None:
    run = started(make_problem(learning_rate=0.01))
    run.change(0, clipping=3)
    run.train([0])
    run.evaluate([0])
    run.save(0, "1")
    here, settings = run.snapshot(0), run.states[0].hyperparameters
    run.change(0, clipping=0, mixing="source_2")
    run.fresh_adapter(0, "dora")
    run.train([0])
    run.evaluate([0])
    there, spent = run.snapshot(0), run.states[0].spent
    run.swap_saved(0, "1")
    state = run.states[0]
    assert torch.equal(run.rows[0].full.values, here.tensors.full[None, : run.layout.width])
    assert run.rows[0].lora is None and (state.adapter, state.rank) == ("full", 0)
    assert state.hyperparameters == replace(settings, mixing="source_2") and state.spent == spent
    run.train([0])
    run.evaluate([0])
    run.load_saved(0, "1")
    assert (state.adapter, state.rank) == ("dora", 4)
    assert not difference(run.rows[0].share().lora, there.tensors.lora)
    assert run.holds(0, "1")


def test_an_anchor_pulls_weights_back_in_proportion_to_what_they_matter(make_problem: MakeProblem) -> None:
    """The gradient that an update sees, from the first moment that it leaves: (1 - beta) g."""
    problem = make_problem(learning_rate=0.01, regularisation=0, clipping=4, interval=1)
    run = started(problem)
    for _ in range(6):
        run.train([0])
    run.evaluate([0])
    second = run.rows[0].full.second[0].clone()
    anchor = run.rows[0].weights.clone()
    run.anchor(0)
    for _ in range(3):
        run.train([0])
    twin = Run(build_model(SHAPE, 0), 1, "single")
    twin.load(0, problem)
    twin.restore(0, run.snapshot(0))
    twin.release(0)
    weights = run.rows[0].weights.clone()
    for one in (run, twin):
        one.train([0])
    pulled = (run.rows[0].full.first[0] - twin.rows[0].full.first[0]) / (1 - 0.9)
    fisher = (second / second.mean()).clamp(max=10)
    torch.testing.assert_close(pulled, STRENGTH * fisher * (weights - anchor), rtol=1e-3, atol=1e-5)
    assert importance(run.rows[0].anchored).mean() <= 1  # type: ignore[arg-type]


@pytest.mark.parametrize("executor", ["single", "batched"])
def test_frozen_layers_stay_and_cost_less(make_problem: MakeProblem, executor: str) -> None:
    run = started(make_problem(), executor)
    run.train([0])
    run.evaluate([0])
    run.change(0, frozen=2)
    before = {name: view.clone() for name, view in run.layout.unflatten(run.rows[0].weights).items()}
    run.train([0])
    for name, view in run.layout.unflatten(run.rows[0].weights).items():
        frozen = name.startswith(("model.embed_tokens", "model.layers.0."))
        assert torch.equal(view, before[name]) == frozen, name
    model = plain(run)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("model.embed_tokens", "model.layers.0.")))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(2, 8, dtype=torch.long)).logits.sum().backward()
    assert run.step_cost(0) == counter.get_total_flops()


def test_gradients_in_the_inputs_cost_what_torch_counts() -> None:
    model = build_model(SHAPE, 0).requires_grad_(False)
    embedded = torch.randn(3, 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embedded).logits.sum().backward()
    assert 3 * input_gradient_cost(model.config, 8, "causal_lm", 8) == counter.get_total_flops()


def test_what_is_looked_at_is_charged(make_problem: MakeProblem) -> None:
    run = started(make_problem(teacher=True))
    cost, state = run.cost(0, run.states[0].problem), run.states[0]
    expected: dict[tuple[str, str], float] = {
        ("selection", "hard"): cost.train + 2 * cost.forward,
        ("selection", "clean"): cost.train + 2 * state.teacher_cost,
        ("distillation", "ensemble"): cost.train + 2 * cost.forward + state.teacher_cost,
        ("distillation", "best"): cost.train + cost.forward,
        ("perturbation", "noise"): cost.train,
        ("perturbation", "pgd"): cost.train + 3 * input_gradient_cost(run.config, 8, "causal_lm", 8),
    }
    for (name, value), each in expected.items():
        run.change(0, **{name: value})
        assert run.step_cost(0) == pytest.approx(2 * each), name
        run.change(0, selection="off", distillation="off", perturbation="off")


def test_half_of_the_candidates_are_chosen_by_loss() -> None:
    losses = torch.tensor([3.0, 1.0, 4.0, 1.5, 5.0, 9.0])
    assert choose(losses, "clean", 0.9).tolist() == [0, 1, 3]
    assert choose(losses, "hard", 0.1).tolist() == [2, 4, 5]
    assert [choose(losses, "curriculum", share).tolist() for share in (0.0, 0.4, 1.0)] == [
        [0, 1, 3], [0, 2, 3], [2, 4, 5]
    ]  # fmt: skip


def test_selecting_by_a_reference_drops_planted_noise(make_problem: MakeProblem) -> None:
    """One source of three is noise; a teacher that has learned the text finds it out."""
    rng = np.random.default_rng(0)
    text = np.tile(rng.integers(0, 64, 40), 30).astype(np.int16)
    noise = rng.integers(0, 64, 1200).astype(np.int16)
    held = np.stack([text[start : start + 9] for start in range(5)]).astype(np.int64)
    task = CausalLM((text, noise, noise), held, held)
    run = started(replace(make_problem(interval=200, learning_rate=0.02), task=CausalLM((text,) * 3, held, held)))
    run.train([0])
    teacher = plain(run).eval()
    problem = replace(make_problem(interval=40), task=task, teacher=teacher)
    shares = {}
    for selection in ("off", "clean"):
        run = started(replace(problem, hyperparameters=replace(problem.hyperparameters, selection=selection)))
        run.train([0])
        shares[selection] = run.evaluate([0])[0].source_share[0]
    assert shares["off"] < 0.45 and shares["clean"] > 0.5
    # Two of four candidates are clean in the mean, so more than that can seldom be had.
    assert shares["clean"] > shares["off"] + 0.2


SETTINGS: list[dict[str, Any]] = [
    {"optimizer": "sgd", "learning_rate": 0.5},
    {"optimizer": "lion", "learning_rate": 1e-3},
    {"optimizer": "schedule_free"},
    {"momentum": 0, "memory": 3, "clipping": 0, "accumulation": 2},
    {"selection": "hard", "smoothing": 3},
    {"selection": "curriculum", "augmentation": "swap"},
    {"perturbation": "noise"},
    {"perturbation": "pgd", "regularisation": 4},
    {"perturbation": "swaps"},
    {"distillation": "ensemble", "temperature": 2},
    {"distillation": "best", "frozen": 1},
]


@pytest.mark.parametrize("executor", ["batched", "compiled"])
def test_a_row_is_the_same_alone_and_among_others(make_problem: MakeProblem, executor: str) -> None:
    """Rows with all kinds of settings together, and each by itself in the executor for one model."""

    def play(rows: list[int], executor: str) -> dict[int, tuple[Any, torch.Tensor]]:
        run = Run(build_model(SHAPE, 0), len(SETTINGS), executor)
        for row in rows:
            run.load(row, make_problem(row, teacher=True, interval=5, **SETTINGS[row]))
            if SETTINGS[row].get("optimizer") == "schedule_free":
                run._begin_optimizer(row)
        run.evaluate(rows)
        for _ in range(2):
            run.train(rows)
            measured = dict(zip(rows, run.evaluate(rows), strict=True))
        return {row: (measured[row], run.effective([row])[0].clone()) for row in rows}

    together = play(list(range(len(SETTINGS))), executor)
    for row in range(len(SETTINGS)):
        measured, weights = together[row]
        if executor == "batched":
            found, other = play([row], executor)[row]
            assert repr(found) == repr(measured) and torch.equal(other, weights), SETTINGS[row]
        found, other = play([row], "single")[row]
        assert found.validation_loss == pytest.approx(measured.validation_loss, rel=2e-3), SETTINGS[row]
        assert found.cost == measured.cost


@pytest.mark.parametrize("adapter", ["dora", "ia3", "adalora"])
def test_adapters_of_other_kinds_train_and_are_merged_without_a_change(make_problem: MakeProblem, adapter: Any) -> None:
    run = started(make_problem(interval=30, learning_rate=0.01), "batched")
    run.fresh_adapter(0, adapter)
    run.train([0])
    measured = run.evaluate([0])[0]
    assert math.isfinite(measured.validation_loss) and measured.train_loss > 0
    before = run.effective([0])[0].clone()
    run.merge_adapter(0)
    assert torch.equal(run.effective([0])[0], before) and run.states[0].adapter == "full"
