"""Models that become smaller and larger, against those that transformers makes of the smaller configuration."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from llmo.engine.executors import Batch
from llmo.engine.layout import Layout
from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.evaluation.compare import difference
from llmo.tasks.causal_lm import CausalLM

MakeProblem = Callable[..., Problem]


def grouped() -> Any:
    """A Llama of three blocks whose eight heads share four of keys and values."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=16, intermediate_size=22, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=4, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        attn_implementation="eager",
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


MODELS = {
    "llama": lambda: build_model(ModelShape(8, 3), 0),
    "grouped": grouped,
    "gpt2": lambda: build_model(ModelShape(8, 3, "gpt2"), 0),
}
SMALLER = {
    "block": ("remove_block",),
    "units": ("prune_units", "prune_units"),
    "heads": ("prune_heads",),
    "all": ("prune_units", "remove_block", "prune_heads"),
}
IDS = torch.randint(64, (2, 8), generator=torch.Generator().manual_seed(0))


def started(make_problem: MakeProblem, model: Any, executor: str = "single", replicas: int = 1, **settings: Any) -> Run:
    run = Run(model, replicas, executor)
    weights = Layout(model).flatten(model)
    for row in range(replicas):
        run.load(row, make_problem(row, weights=weights, **{"learning_rate": 0.01} | settings))
    run.evaluate(range(replicas))
    run.train(range(replicas))
    run.evaluate(range(replicas))
    return run


def apply(run: Run, *names: str, row: int = 0) -> None:
    for name in names:
        getattr(run, name)(row)


def exported(run: Run, row: int = 0) -> Any:
    """The smaller model by transformers, with the weights that a row has now."""
    structure = run.states[row].structure
    config = run.structures.config(structure)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    kept = run.effective([row])[0][run.structures.places(structure)]
    layout = Layout(model)
    for name, value in layout.unflatten(torch.nn.functional.pad(kept, (0, layout.width - layout.size))).items():
        model.get_parameter(name).data.copy_(value)
    return model.eval()


def logits(run: Run, row: int = 0) -> torch.Tensor:
    return run._executor_of([row]).logits(run.effective([row]), IDS[None], 8)[0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("smaller", SMALLER)
def test_what_is_left_is_transformers_smaller_model(make_problem: MakeProblem, name: str, smaller: str) -> None:
    if name == "gpt2" and smaller in ("heads", "all"):
        pytest.skip("its heads stay")
    run = started(make_problem, MODELS[name]())
    apply(run, *SMALLER[smaller])
    model = exported(run)
    expected = model(input_ids=IDS).logits
    torch.testing.assert_close(logits(run), expected, rtol=0, atol=1e-5)
    # The whole model with zeros computes the same.
    torch.testing.assert_close(run.executor.logits(run.effective([0]), IDS[None], 8)[0], expected, rtol=0, atol=1e-5)
    cross_entropy(expected.flatten(0, 1), IDS.flatten()).backward()
    lane = run._lane(0, {0: 1})
    _, gradient = run._passes_of([lane]).gradient(run.effective([0]), Batch(IDS[None], IDS[None], CausalLM.loss))
    wanted = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    places = run.structures.places(run.states[0].structure)
    torch.testing.assert_close(gradient[0, places], wanted, rtol=1e-4, atol=1e-6)
    assert gradient[0].count_nonzero() == gradient[0, places].count_nonzero() > 0
    with FlopCounterMode(display=False) as counter:
        model(input_ids=IDS).logits.sum().backward()
    problem = run.states[0].problem
    assert run.step_cost(0) == pytest.approx(counter.get_total_flops() / len(IDS) * problem.batch, rel=0.05)
    size = sum(parameter.numel() for parameter in model.parameters()) / run.parameters
    assert run.size(0) == pytest.approx(size) and size < 1


@pytest.mark.parametrize("name", MODELS)
def test_growing_keeps_what_is_computed_and_what_came_is_trained(make_problem: MakeProblem, name: str) -> None:
    run = started(make_problem, MODELS[name]())
    apply(run, "prune_units", "remove_block")
    for grow in ("add_block", "widen_units"):
        before, there = logits(run), run.present(run.states[0].structure)
        apply(run, grow)
        assert (logits(run) - before).abs().max() < 1e-5
        came = run.present(run.states[0].structure) & ~there
        first = run.rows[0].weights.clone()
        for _ in range(3):
            run.train([0])
            run.evaluate([0])
        moved = run.rows[0].weights != first
        # Biases of what comes in move too; an embedding that no batch has does not.
        assert moved[came].float().mean() > 0.95 and (logits(run) - before).abs().max() > 1e-3
    assert run.states[0].structure.removed == (0, 0, 0) and run.size(0) == 1


def test_what_goes_is_what_matters_least(make_problem: MakeProblem) -> None:
    """Blocks by validation losses of transformers' models, units by norms of rows and columns, heads by gates."""
    run = started(make_problem, grouped())
    problem, start = run.states[0].problem, run.snapshot(0)
    whole = exported(run)
    losses = []
    for block in range(3):
        model = exported(run)
        del model.model.layers[block]
        found = model(input_ids=problem.task.validation.inputs).logits
        losses.append(cross_entropy(found.flatten(0, 1), problem.task.validation.labels.flatten()).item())
    spent = run.states[0].spent
    apply(run, "remove_block")
    assert run.states[0].structure.blocks == (min(range(3), key=losses.__getitem__),)
    smaller = run.saved_cost(0, run.states[0].structure)
    assert run.states[0].spent - spent == pytest.approx(3 * len(problem.task.validation.inputs) * smaller)

    run.restore(0, start)
    apply(run, "prune_units")
    for layer, gone in zip(whole.model.layers, run.states[0].structure.units, strict=True):
        mlp = layer.mlp
        sizes = mlp.gate_proj.weight.abs().sum(1) + mlp.up_proj.weight.abs().sum(1) + mlp.down_proj.weight.abs().sum(0)
        assert gone == tuple(sorted(sizes.topk(5, largest=False).indices.tolist()))

    run.restore(0, start)
    lane = run._lane(0, {0: 1})
    gates = [torch.ones(4, requires_grad=True) for _ in whole.model.layers]
    for layer, gate in zip(whole.model.layers, gates, strict=True):
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _module, given, gate=gate: given[0] * gate.repeat_interleave(4)
        )
    importance = torch.zeros(3, 4)
    for inputs, labels in zip(lane.interval.inputs[0], lane.interval.labels[0], strict=True):
        loss = cross_entropy(whole(input_ids=inputs[None]).logits[0], labels)
        importance += torch.stack(torch.autograd.grad(loss, gates)).abs()
    apply(run, "prune_heads")
    # Six heads do not divide a width of 16.
    expected = tuple(tuple(sorted(row.topk(2, largest=False).indices.tolist())) for row in importance)
    assert run.states[0].structure.heads == expected


SETTINGS: list[dict[str, Any]] = [{}, {"regularisation": 3}, {"optimizer": "schedule_free"}, {"perturbation": "fgm"}]


@pytest.mark.parametrize("settings", SETTINGS)
def test_one_run_and_many_agree_and_a_row_is_the_same_in_any_population(
    make_problem: MakeProblem, settings: dict[str, Any]
) -> None:
    given = {"learning_rate": 3e-3} | settings
    model = MODELS["llama"]
    changed = [("prune_units",), ("prune_units", "remove_block"), (), ("remove_block", "add_block"), ("prune_units",)]
    runs = {name: started(make_problem, model(), name, 5, **given) for name in ("single", "batched")}
    for run in runs.values():
        for row, names in enumerate(changed):
            apply(run, *names, row=row)
        for _ in range(3):
            run.train(range(5))
            run.evaluate(range(5))
    for row in range(5):
        one, many = (run.rows[row].weights for run in runs.values())
        assert (one - many).abs().max() < 1e-4
        assert runs["single"].states[row].loss == pytest.approx(runs["batched"].states[row].loss, abs=1e-4)
        absent = ~runs["single"].present(runs["single"].states[row].structure)
        assert not one[absent].any() and not many[absent].any()
        assert not runs["batched"].rows[row].averaged[absent].any()
    alone = Run(model(), 1, "batched")
    fresh = started(make_problem, model(), "batched", 5, **given)
    apply(fresh, "prune_units", "remove_block", row=1)
    alone.restore(0, fresh.snapshot(1))
    for _ in range(3):
        alone.train([0])
        alone.evaluate([0])
    assert torch.equal(alone.rows[0].weights, runs["batched"].rows[1].weights)


def test_restoring_is_bit_identical_across_a_change(make_problem: MakeProblem) -> None:
    run = started(make_problem, MODELS["llama"](), regularisation=3)
    before = run.snapshot(0)

    def go_on() -> Any:
        apply(run, "become_student")
        run.train([0])
        run.evaluate([0])
        apply(run, "add_block", "widen_units", "prune_heads")
        run.train([0])
        run.evaluate([0])
        return run.snapshot(0)

    once = go_on()
    run.restore(0, before)
    assert not difference(run.snapshot(0), before)
    assert not difference(go_on(), once)


def test_best_weights_and_registers_remember_their_structure(make_problem: MakeProblem) -> None:
    run = started(make_problem, MODELS["llama"]())
    state, best = run.states[0], run.delivered(0)
    run.collect(0)
    apply(run, "prune_units", "remove_block")
    assert not state.collected
    small = run.effective([0]).clone()
    run.save(0, "1")
    run.rows[0].own_full().values[0] *= 3
    run.train([0])
    run.evaluate([0])
    assert state.loss > state.best_loss and state.structure.removed == (1, 6, 0)
    run.load_best(0)
    assert state.structure.removed == (0, 0, 0) and torch.equal(run.effective([0]), best)
    run.swap_saved(0, "1")
    assert state.structure.removed == (1, 6, 0) and torch.equal(run.effective([0]), small)
    assert run.saved_structure(0, "1").removed == (0, 0, 0) and torch.equal(run.saved_weights(0, "1"), best[0])
    assert not run.soup_candidates(0), "weights of another structure are not mixed"


def test_a_student_comes_near_its_teacher_which_stays(make_problem: MakeProblem) -> None:
    model = MODELS["llama"]()
    for name, parameter in model.named_parameters():
        # So that the blocks matter.
        parameter.data *= 3 if "layers" in name and parameter.dim() > 1 else 1
    run = started(make_problem, model, interval=20, learning_rate=5e-3)
    teacher = exported(run)
    expected = teacher(input_ids=IDS).logits.log_softmax(-1).detach()
    price = run.step_cost(0)
    apply(run, "become_student")
    state = run.states[0]
    assert state.structure.removed == (1, 12, 0) and state.hyperparameters.distillation == "larger"
    soft = run.saved_cost(0, run.saved_structure(0, "best")) * state.problem.batch
    trained = run.cost(0, state.problem, structure=state.structure).train * state.problem.batch
    assert run.step_cost(0) == pytest.approx(trained + soft) and trained < 0.8 * price
    begun = run.snapshot(0)
    distances: dict[str, list[float]] = {"off": [], "larger": []}
    for mode, found in distances.items():
        run.restore(0, begun)
        run.change(0, distillation=mode)
        for _ in range(3):
            found.append((expected.exp() * (expected - logits(run).log_softmax(-1))).sum(-1).mean().item())
            run.train([0])
            run.evaluate([0])
    assert distances["larger"][-1] < 0.8 * distances["larger"][0], distances
    assert distances["larger"][-1] < 0.8 * distances["off"][-1], distances
    kept = run.rows[0].kept("larger")
    assert kept is not None and not torch.equal(kept, run.delivered(0)[0])
    torch.testing.assert_close(run.executor.logits(kept[None], IDS[None], 8)[0].log_softmax(-1), expected)


@pytest.mark.parametrize("adapter", ["lora", "ia3"])
def test_an_adapter_on_a_smaller_model_reaches_nothing_that_is_absent(make_problem: MakeProblem, adapter: Any) -> None:
    runs = [started(make_problem, MODELS["llama"](), executor) for executor in ("single", "batched")]
    for run in runs:
        apply(run, "prune_units", "remove_block")
        run.fresh_adapter(0, adapter)
        run.train([0])
        run.evaluate([0])
        torch.testing.assert_close(logits(run), exported(run)(input_ids=IDS).logits, rtol=0, atol=1e-5)
        assert not run.can_restructure(0)
        run.merge_adapter(0)
        assert not run.rows[0].weights[~run.present(run.states[0].structure)].any()
    torch.testing.assert_close(runs[0].rows[0].weights, runs[1].rows[0].weights, rtol=0, atol=1e-4)


def test_smaller_and_sparse_are_counted_together(make_problem: MakeProblem) -> None:
    run = started(make_problem, MODELS["llama"]())
    apply(run, "remove_block", "prune_more")
    model = exported(run)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    zeros = sum(int((matrix == 0).sum()) for matrix in matrices)
    assert zeros == round(0.3 * sum(matrix.numel() for matrix in matrices))
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert run.size(0) == pytest.approx((whole - zeros) / run.parameters)
    assert not run.can_grow(0) and run.can_restructure(0)
