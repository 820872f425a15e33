"""Virtual tokens are PEFT's prompt and prefix tuning; in a population they are one more thing that rows may train."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from llmo import catalog
from llmo.budget import sequence_cost
from llmo.engine.executors import Batch
from llmo.engine.models import ModelShape, build_model, make_plain, model_config
from llmo.engine.run import Run
from llmo.engine.single import Single, SingleSettings
from llmo.engine.virtual import VirtualTokens, with_virtual_tokens
from llmo.engine.vmapped import Vmapped
from llmo.evaluation.compare import difference
from llmo.hyperparameters import VIRTUAL, VIRTUAL_TOKENS, Adapter
from llmo.kinds import PADDING, Kind, auto_class
from llmo.tasks.causal_lm import CausalLM

SHAPES = [ModelShape(8, 2), ModelShape(8, 2, "gpt2")]
CPU = torch.device("cpu")
MakeProblem = Callable[..., Any]


def in_peft(shape: ModelShape, kind: Adapter) -> Any:
    config = PromptTuningConfig if kind == "prompt" else PrefixTuningConfig
    torch.manual_seed(0)
    settings: Any = config(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)
    return get_peft_model(build_model(shape, 0), settings).train()


def executor_of(shape: ModelShape) -> VirtualTokens:
    model = build_model(shape, 0)
    return with_virtual_tokens(Single(build_model(shape, 0)), model, CPU)


def row_of(executor: VirtualTokens, shape: ModelShape) -> torch.Tensor:
    row = torch.zeros(1, executor.layout.width)
    row[0, : executor.layout.size] = executor.layout.flatten(build_model(shape, 0))
    return row


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", VIRTUAL)
def test_logits_and_gradients_are_pefts(kind: Adapter, shape: ModelShape) -> None:
    peft, executor = in_peft(shape, kind), executor_of(shape)
    row, trained = row_of(executor, shape), peft.prompt_encoder["default"].embedding.weight
    tokens = executor.layout.tokens(row, kind)
    tokens.copy_(trained.detach().view(tokens.shape))
    ids = torch.randint(0, 64, (3, 10), generator=torch.Generator().manual_seed(1))
    inputs, labels = ids[:, :-1], ids[:, 1:]
    logits = peft(input_ids=inputs).logits[:, -9:]
    torch.testing.assert_close(executor.logits(row, inputs[None], 9)[0], logits, rtol=1e-4, atol=1e-5)

    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    losses.mean().backward()
    reported, gradient = executor.gradient(row, Batch(inputs[None], labels[None], CausalLM.loss))
    torch.testing.assert_close(reported[0], losses.detach().mean(1), rtol=1e-4, atol=1e-5)
    found = executor.layout.tokens(gradient[:], kind)
    torch.testing.assert_close(found, trained.grad.view(found.shape), rtol=1e-3, atol=1e-6)
    assert not gradient[:][:, : executor.layout.virtual].any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fresh_ones_are_as_tokens_of_the_vocabulary_before_the_sequence(shape: ModelShape) -> None:
    executor = executor_of(shape)
    ids = torch.randint(0, 64, (1, 2, 9), generator=torch.Generator().manual_seed(1))
    before = torch.randint(512, (1, VIRTUAL_TOKENS), generator=torch.Generator().manual_seed(7))
    whole = torch.cat([before.expand(2, -1), ids[0]], 1)
    with torch.no_grad():
        expected = build_model(shape, 0)(input_ids=whole).logits[:, VIRTUAL_TOKENS:]
    for kind in VIRTUAL:
        row = row_of(executor, shape)
        executor.fronted.begin(row[0], kind, 7)
        assert executor.layout.kinds(row) == [kind]
        torch.testing.assert_close(executor.logits(row, ids, 9)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["classification", "tagging"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_stand_before_labelled_examples_too(shape: ModelShape, kind: Kind) -> None:
    """Of models with dropout of their own, which is off."""
    config: Any = model_config(shape)
    config.num_labels, config.pad_token_id, config.attention_dropout = 3, 511, 0.1
    config.resid_pdrop = config.attn_pdrop = 0.1
    torch.manual_seed(0)
    model = auto_class(kind).from_config(config).eval()
    plain = copy.deepcopy(model)
    make_plain(plain)
    executor = with_virtual_tokens(Vmapped(plain), model, CPU)
    ids = torch.randint(0, 64, (1, 2, 9), generator=torch.Generator().manual_seed(1))
    ids[0, 1, 6:] = PADDING
    before = torch.randint(512, (1, VIRTUAL_TOKENS), generator=torch.Generator().manual_seed(7))
    whole = torch.cat([before.expand(2, -1), ids[0].where(ids[0] != PADDING, 511)], 1)
    with torch.no_grad():
        expected = model(input_ids=whole, attention_mask=(whole != 511).long()).logits
    positions = 9 if kind == "tagging" else 1
    for adapter in VIRTUAL:
        row = torch.zeros(1, executor.layout.width)
        row[0, : executor.layout.size] = executor.layout.flatten(model)
        executor.fronted.begin(row[0], adapter, 7)
        found = executor.logits(row, ids, positions)[0]
        if kind == "tagging":
            real = ids[0] != PADDING
            torch.testing.assert_close(found[real], expected[:, VIRTUAL_TOKENS:][real], rtol=1e-4, atol=1e-5)
        else:
            torch.testing.assert_close(found[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_rows_with_and_without_are_told_apart() -> None:
    executor = executor_of(SHAPES[0])
    rows = row_of(executor, SHAPES[0]).repeat(3, 1)
    executor.fronted.begin(rows[0], "prefix", 1)
    executor.fronted.begin(rows[2], "prompt", 2)
    ids = torch.randint(0, 64, (3, 2, 9), generator=torch.Generator().manual_seed(1))
    found = executor.logits(rows, ids, 9)
    for place in range(3):
        one = slice(place, place + 1)
        assert torch.equal(executor.logits(rows[one], ids[one], 9)[0], found[place])
    with torch.no_grad():
        torch.testing.assert_close(found[1], build_model(SHAPES[0], 0)(input_ids=ids[1]).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [ModelShape(16, 2), ModelShape(16, 2, "gpt2")], ids=str)
@pytest.mark.parametrize("kind", VIRTUAL)
def test_they_cost_what_peft_costs(kind: Adapter, shape: ModelShape) -> None:
    peft, ids = in_peft(shape, kind), torch.zeros(3, 24, dtype=torch.long)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        peft(input_ids=ids)
    with FlopCounterMode(display=False) as both:
        peft(input_ids=ids).logits.sum().backward()
    cost = sequence_cost(model_config(shape), 24, 1, adapter=kind)
    assert 3 * cost.forward == pytest.approx(forward.get_total_flops(), rel=0.05)
    assert 3 * cost.train == pytest.approx(both.get_total_flops(), rel=0.05)


def begun(problem: Any, executor: str, kind: Adapter) -> Run:
    run = Run(build_model(SHAPES[0], 0), 1, executor, virtual=True)
    run.load(0, problem)
    run.evaluate([0])
    run.train([0])
    run.evaluate([0])
    run.fresh_adapter(0, kind)
    return run


@pytest.mark.parametrize("kind", VIRTUAL)
def test_they_train_alone_are_undone_and_go(make_problem: MakeProblem, kind: Adapter) -> None:
    run = begun(make_problem(interval=30, learning_rate=3e-3, mixing="source_1"), "batched", kind)
    weights = run.rows[0].weights[: run.layout.virtual].clone()
    first, here = run.evaluate([0])[0], run.snapshot(0)
    run.train([0])
    after = run.evaluate([0])[0]
    assert after.validation_loss < first.validation_loss and not run.states[0].diverged
    assert torch.equal(run.rows[0].weights[: run.layout.virtual], weights), "the model is frozen"
    run.restore(0, here)
    assert not difference(run.snapshot(0), here)
    run.train([0])
    assert repr(run.evaluate([0])[0]) == repr(after)
    run.load_best(0)
    assert run.states[0].adapter in (kind, "full")
    run.restore(0, here)
    run.merge_adapter(0)
    assert torch.equal(run.effective([0])[0, : run.layout.virtual], weights) and run.states[0].adapter == "full"
    assert run.layout.kinds(run.effective([0])) == ["full"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", VIRTUAL)
def test_they_train_alike_under_each_executor(make_problem: MakeProblem, kind: Adapter) -> None:
    """With dropout, soft targets of the own average, and perturbed inputs."""
    settings = {"extra_dropout": 2, "distillation": "averaged", "perturbation": "fgm", "interval": 5}
    found = []
    for executor in ("single", "batched"):
        run = begun(make_problem(**settings), executor, kind)
        for _ in range(2):
            run.train([0])
            measured = run.evaluate([0])[0]
        found.append((measured, run.effective([0])[0].clone()))
    (one, row), (other, there) = found
    assert one.validation_loss == pytest.approx(other.validation_loss, rel=2e-3) and one.cost == other.cost
    torch.testing.assert_close(row, there, rtol=1e-2, atol=1e-2)


def test_a_row_has_the_same_bits_beside_others(make_problem: MakeProblem) -> None:
    def play(rows: list[int]) -> dict[int, torch.Tensor]:
        run = Run(build_model(SHAPES[0], 0), 4, "batched", virtual=True)
        for row in rows:
            run.load(row, make_problem(row, interval=4))
        run.evaluate(rows)
        for row in rows:
            if row < 2:
                run.fresh_adapter(row, VIRTUAL[row])
        for _ in range(2):
            run.train(rows)
            run.evaluate(rows)
        return {row: run.effective([row])[0].clone() for row in rows}

    together = play([0, 1, 2, 3])
    for row in range(4):
        assert torch.equal(play([row])[row], together[row])


def test_where_they_are_masked(make_problem: MakeProblem) -> None:
    def allowed(run: Run, name: str) -> bool:
        return bool(catalog.get("actions", name)().allowed(run, 0))

    names = [f"adapter_{kind}" for kind in VIRTUAL]
    plain = Run(build_model(SHAPES[0], 0), 1)
    plain.load(0, make_problem())
    assert not any(allowed(plain, name) for name in names), "no room"
    other = Run(build_model(SHAPES[0], 0), 1, "single", single=SingleSettings(accumulation=2), virtual=True)
    assert other.layout.virtual == other.layout.width
    run = Run(build_model(SHAPES[0], 0), 1, virtual=True)
    run.load(0, make_problem())
    run.evaluate([0])
    assert all(allowed(run, name) for name in names)
    run.fresh_adapter(0, "prompt")
    assert [allowed(run, name) for name in names] == [False, True] and allowed(run, "adapter_full")
    closed = ("adapter_merge", "adapter_rank_up", "adapter_rank_down", "adapter_average", "freeze_more", "anchor_set")
    assert not any(allowed(run, name) for name in (*closed, "prune_more", "quantise_int8", "soup_load", "swa_collect"))
