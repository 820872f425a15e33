"""Predicting what is read: against losses composed by hand from modules of transformers, and torch's FLOP counter."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, GPT2Config, LlamaConfig, T5Config

from llmo.actions.auxiliary import AuxiliaryLess, AuxiliaryMore
from llmo.engine.adapters import SCALING, grow
from llmo.engine.auxiliary import can_predict_input, what_is_read
from llmo.engine.compiled import Compiled
from llmo.engine.executors import Batch
from llmo.engine.layout import FactorLayout, Layout
from llmo.engine.run import Run
from llmo.engine.single import SingleSettings
from llmo.engine.state import Problem
from llmo.evaluation.compare import difference
from llmo.hyperparameters import Hyperparameters
from llmo.kinds import IGNORED, PADDING, Kind, auto_class
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.labelled import Labelled
from llmo.tasks.task import Examples

TOKENS, CLASSES, VOCABULARY = 9, 4, 40
LLAMA = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, pad_token_id=39, num_labels=CLASSES,
)  # fmt: skip
GPT2 = GPT2Config(
    vocab_size=VOCABULARY, n_positions=16, n_embd=8, n_layer=2, n_head=2, pad_token_id=39, num_labels=CLASSES,
    resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, summary_first_dropout=0, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
MODELS: list[tuple[Any, Kind]] = [
    (LLAMA, "classification"), (GPT2, "classification"), (LLAMA, "tagging"), (LLAMA, "causal_lm"),
]  # fmt: skip
IDS = [f"{config.model_type}-{kind}" for config, kind in MODELS]
WEIGHTS = (0.0, 0.1, 0.5, 1.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_model(config: Any, kind: Kind, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return auto_class(kind).from_config(config, attn_implementation="eager").eval()


def examples(kind: Kind, count: int, seed: int) -> Examples:
    """Sequences of 4 to 8 tokens; those of a language model are prompts with answers of two tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY - 1, (count, TOKENS), generator=generator)
    lengths = torch.randint(4, TOKENS, (count, 1), generator=generator)
    places = torch.arange(TOKENS)[None]
    behind = places >= lengths
    if kind == "causal_lm":
        answered = (places >= lengths - 2) & ~behind
        return Examples(torch.where(behind, 0, ids), torch.where(answered, ids.roll(-1, 1), IGNORED))
    labels = torch.randint(CLASSES, (count, 1 if kind == "classification" else TOKENS), generator=generator)
    ids = torch.where(behind, PADDING, ids)
    return Examples(ids, labels if kind == "classification" else torch.where(behind, IGNORED, labels))


def make_problem(config: Any, kind: Kind, seed: int = 3, **settings: Any) -> Problem:
    model = make_model(config, kind, seed)
    return Problem(
        task=Labelled(tuple(examples(kind, 12, 10 * seed + one) for one in range(3)), *(examples(kind, 5, 1),) * 2),
        weights=Layout(model).flatten(model),
        teacher=None,
        start="scratch",
        hyperparameters=Hyperparameters(**({"learning_rate": 5e-3, "regularisation": 0} | settings)),
        roles=((0.0, (0, 1, 2)),),
        interval=3,
        batch=4,
        budget=1e15,
        seed=seed,
    )


def started(problem: Problem, config: Any, kind: Kind, executor: str = "single", **more: Any) -> Run:
    run = Run(make_model(config, kind), 1, executor, **more)
    run.load(0, problem)
    run.evaluate([0])
    return run


def next_batch(run: Run) -> Batch:
    lane = run._lane(0, {0: 1})
    return run._next_batch([lane], run.effective([0]), run.rows[0].averaged[None])


def composed(output: Any, table: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor, kind: Kind) -> Any:
    """Main loss and that of what is read, sequence by sequence."""
    logits, hidden = output.logits, output.hidden_states[-1]
    main = cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.flatten(), ignore_index=IGNORED)
    losses = []
    for sequence, (tokens, wanted) in enumerate(zip(ids.tolist(), labels.tolist(), strict=True)):
        last = max((place for place, label in enumerate(wanted) if label != IGNORED), default=-1)
        for place in range(TOKENS - 1):
            if PADDING in tokens[place : place + 2]:
                continue
            if kind == "causal_lm" and (place > last or wanted[place] != IGNORED):
                continue
            found = logits[sequence, place] if kind == "causal_lm" else hidden[sequence, place] @ table.T
            losses.append(cross_entropy(found[None], torch.tensor([tokens[place + 1]])))
    assert len(losses) > 4
    return main, torch.stack(losses).mean()


def given(ids: torch.Tensor, kind: Kind) -> dict[str, torch.Tensor]:
    if kind == "causal_lm":
        return {"input_ids": ids}
    return {"input_ids": torch.where(ids == PADDING, 39, ids), "attention_mask": (ids != PADDING).long()}


@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("executor", ["single", "batched", "micro-batches"])
@pytest.mark.parametrize(("config", "kind"), MODELS, ids=IDS)
def test_the_gradient_is_that_of_both_losses(config: Any, kind: Kind, executor: str, level: int) -> None:
    more = {"single": SingleSettings(accumulation=2)} if executor == "micro-batches" else {}
    name = "batched" if executor == "batched" else "single"
    run = started(make_problem(config, kind, auxiliary=level), config, kind, name, **more)
    batch = next_batch(run)
    losses, gradient = run.executor.gradient(run.effective([0]), batch)
    model = make_model(config, kind, 3)
    ids, labels = batch.inputs[0], batch.labels[0]
    output = model(**given(ids, kind), output_hidden_states=True)
    main, read = composed(output, model.get_input_embeddings().weight, ids, labels, kind)
    pieces = torch.autograd.grad(main + WEIGHTS[level] * read, list(model.parameters()))
    expected = run.layout.join([piece[None] for piece in pieces])
    torch.testing.assert_close(gradient[:], expected, rtol=1e-4, atol=1e-6)
    # What is reported is the task alone.
    reported = losses.sum() * labels.shape[-1] / (labels != IGNORED).sum()
    torch.testing.assert_close(reported, main.detach())


def test_it_is_not_compiled() -> None:
    run = started(make_problem(LLAMA, "tagging", auxiliary=2), LLAMA, "tagging", "batched")
    program: Any = run.executor
    batch, compiled = next_batch(run), Compiled(program)
    found, expected = (one.gradient(run.effective([0]), batch) for one in (compiled, program))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)) and not compiled.seconds


def test_factors_on_a_frozen_base_get_the_gradient_of_both() -> None:
    base, layout = make_model(LLAMA, "tagging"), FactorLayout(make_model(LLAMA, "tagging"))
    factors = torch.zeros(layout.size)
    grow(layout.factors, factors, 0, 2, 0)
    generator = torch.Generator().manual_seed(0)
    for linear in layout.factors:
        linear.factors(factors[None])[1][0, :, :2] = 0.1 * torch.randn(linear.outputs, 2, generator=generator)
    problem = replace(make_problem(LLAMA, "tagging", auxiliary=2), weights=factors, rank=2)
    run = started(problem, LLAMA, "tagging", "batched", frozen=True)
    batch = next_batch(run)
    _, gradient = run.executor.gradient(run.effective([0]), batch)
    row = run.effective([0]).clone().requires_grad_()
    weights = dict(base.named_parameters())
    for linear in layout.factors:
        a, b = linear.factors(row)
        weights[f"{linear.name}.weight"] = weights[f"{linear.name}.weight"].detach() + SCALING * (b @ a)[0]
    kwargs = {**given(batch.inputs[0], "tagging"), "output_hidden_states": True}
    output = functional_call(base, weights, kwargs=kwargs)
    table = base.get_input_embeddings().weight.detach()
    main, read = composed(output, table, batch.inputs[0], batch.labels[0], "tagging")
    (expected,) = torch.autograd.grad(main + 0.5 * read, row)
    torch.testing.assert_close(gradient[:], expected, rtol=1e-4, atol=1e-6)


def test_without_a_weight_nothing_is_added_whoever_else_has_one() -> None:
    levels = [0, 1, 0, 3]

    def played(rows: list[int], executor: str) -> dict[int, tuple[Any, torch.Tensor]]:
        run = Run(make_model(LLAMA, "tagging"), len(levels), executor)
        for row in rows:
            run.load(row, make_problem(LLAMA, "tagging", row, auxiliary=levels[row]))
        run.evaluate(rows)
        for _ in range(2):
            run.train(rows)
            measured = run.evaluate(rows)
        return {row: (one, run.effective([row])[0].clone()) for row, one in zip(rows, measured, strict=True)}

    assert next_batch(started(make_problem(LLAMA, "tagging"), LLAMA, "tagging")).read is None
    together = played([0, 1, 2, 3], "batched")
    for row in range(4):
        alone = played([row], "batched")[row]
        assert alone[0] == together[row][0] and torch.equal(alone[1], together[row][1]), levels[row]
        one = played([row], "single")[row]
        torch.testing.assert_close(one[1], together[row][1], rtol=0, atol=1e-4)
        assert one[0].cost == alone[0].cost


@pytest.mark.parametrize(("rank", "frozen"), [(0, 0), (0, 1), (4, 0)])
def test_the_head_costs_what_torch_counts(rank: int, frozen: int) -> None:
    run = started(make_problem(LLAMA, "tagging", auxiliary=1), LLAMA, "tagging")
    if rank:
        run.fresh_adapter(0)
    run.change(0, frozen=frozen)
    model = make_model(LLAMA, "tagging")
    table = model.get_input_embeddings().weight
    if rank:
        model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    table.requires_grad_(not (rank or frozen))
    ids = torch.zeros(4, TOKENS, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        read = output.hidden_states[-1][:, :-1] @ table.T
        (output.logits.sum() + read.sum()).backward()
    assert run.step_cost(0) == pytest.approx(counter.get_total_flops(), rel=0.01)
    run.change(0, auxiliary=0)
    assert run.step_cost(0) < 0.95 * counter.get_total_flops()


def test_a_language_model_is_not_asked_twice_and_costs_no_head() -> None:
    run = started(make_problem(LLAMA, "causal_lm"), LLAMA, "causal_lm")
    before = run.step_cost(0)
    run.change(0, auxiliary=2)
    assert run.step_cost(0) == before
    ids = torch.tensor([[5, 6, 7, 8, 9, 0, 0]])
    labels = torch.tensor([[IGNORED, IGNORED, 8, 9, 1, IGNORED, IGNORED]])
    assert what_is_read(ids, labels, "causal_lm").tolist() == [[6, 7, *[IGNORED] * 4]]
    ids = torch.tensor([[5, 6, PADDING]])
    assert what_is_read(ids, torch.tensor([[1]]), "classification").tolist() == [[6, IGNORED]]


def test_it_is_offered_where_something_is_read_that_is_not_learned_already() -> None:
    run = started(make_problem(LLAMA, "classification"), LLAMA, "classification")
    more, less = AuxiliaryMore(), AuxiliaryLess()
    assert more.allowed(run, 0) and not less.allowed(run, 0)
    for _ in WEIGHTS[1:]:
        more.apply(run, 0)
    assert not more.allowed(run, 0) and less.allowed(run, 0)
    text = torch.arange(40).numpy()
    windows = text[: TOKENS + 1][None]
    problem = replace(make_problem(LLAMA, "causal_lm"), task=CausalLM((text,) * 3, windows, windows))
    assert not more.allowed(started(problem, LLAMA, "causal_lm"), 0), "running text"
    assert more.allowed(started(make_problem(LLAMA, "causal_lm"), LLAMA, "causal_lm"), 0), "prompts"
    bert = BertConfig(
        vocab_size=40, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=39
    )
    t5 = T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=39)
    assert not can_predict_input(make_model(bert, "tagging"), "tagging"), "it sees what it would predict"
    assert not can_predict_input(make_model(t5, "seq2seq"), "seq2seq")


@pytest.mark.parametrize("executor", ["single", "batched"])
def test_a_snapshot_brings_it_back_bit_for_bit(executor: str) -> None:
    run = started(make_problem(LLAMA, "tagging", auxiliary=2), LLAMA, "tagging", executor)
    run.train([0])
    run.evaluate([0])
    here = run.snapshot(0)
    run.train([0])
    first, weights = run.evaluate([0]), run.effective([0]).clone()
    run.change(0, auxiliary=0)
    run.train([0])
    run.restore(0, here)
    assert not difference(here, run.snapshot(0))
    run.train([0])
    assert run.evaluate([0]) == first and torch.equal(run.effective([0]), weights)
