"""What stands around texts in training, validation and test, against the Hugging Face model on texts made by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn.functional import cross_entropy

from llmo import catalog
from llmo.actions.menu import WHOLE_MENU
from llmo.atomic import tensor_bytes
from llmo.engine.run import Run
from llmo.evaluation.compare import difference
from llmo.kinds import PADDING
from llmo.mdp.instances import Instance
from llmo.mdp.labelled_instances import FAMILIES, _encoded
from llmo.mdp.mixed_instances import draw_dirty_instance, mixed_template
from llmo.mdp.own import own_spec
from llmo.mdp.own_source import example_own
from llmo.mdp.population import Population
from llmo.mdp.saved import pack, unpack
from llmo.mdp.spec import env_spec
from llmo.tasks.prompts import TEMPLATES
from llmo.tasks.task import Examples

SPEC = env_spec("llmo/FineTune-Full-v0")


def instance_of(task: str) -> Instance:
    drawn = (draw_dirty_instance("train", index) for index in range(300))
    return next(one for one in drawn if one.task == task and one.shape.depth == 1 and one.interval < 60)


def started(task: str = "classification", executor: str = "single") -> Population:
    torch.set_num_threads(1)
    population = Population(SPEC, 2, executor=executor)
    population.reset({0: instance_of(task), 1: instance_of(task)})
    return population


def take(population: Population, *names: str) -> None:
    for name in names:
        action = catalog.get("actions", name)()
        assert action.allowed(population.run_of(0), 0), name
        action.apply(population.run_of(0), 0)


def hugging_face(run: Run, row: torch.Tensor) -> Any:
    """The model of transformers with the weights of a row."""
    model = mixed_template(instance_of("classification"))
    for parameter, value in zip(model.parameters(), run.layout.unflatten(row).values()):
        parameter.data.copy_(value)
    return model


def by_hand(inputs: torch.Tensor, template: int) -> torch.Tensor:
    """Texts put in a template as text, and tokenized again."""
    own, _ = _encoded(FAMILIES["classification"], "train", "llama")
    before, behind = (own.tokenizer(part, add_special_tokens=False)["input_ids"] for part in TEMPLATES[template])
    found = torch.full_like(inputs, PADDING)
    for row, ids in enumerate(inputs):
        text = ids[ids != PADDING].tolist()
        whole = [*before, *text[: len(ids) - len(before) - len(behind)], *behind]
        found[row, : len(whole)] = torch.tensor(whole)
    return found


def loss(model: Any, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    ids = torch.where(inputs == PADDING, model.config.pad_token_id or 0, inputs)
    logits = model(input_ids=ids, attention_mask=(inputs != PADDING).long()).logits
    return cross_entropy(logits, labels[:, 0]).item()


@pytest.mark.parametrize("executor", ["single", "batched"])
def test_validation_and_test_are_read_in_the_template(executor: str) -> None:
    population = started(executor=executor)
    run = population.run_of(0)
    task, plain = run.states[0].problem.task, run.evaluate([0])[0].validation_loss
    take(population, "template_2")
    run.states[0].best_loss = run.states[0].best_priced = torch.inf
    measured = run.evaluate([0, 1])
    model = hugging_face(run, run.effective([0])[0])
    expected = loss(model, by_hand(task.validation.inputs, 2), task.validation.labels)
    assert measured[0].validation_loss == pytest.approx(expected, rel=1e-4)
    assert measured[1].validation_loss == pytest.approx(plain, rel=1e-6) and abs(expected / plain - 1) > 1e-5
    # What is delivered is scored as it was validated, whatever is read now.
    take(population, "template_off")
    expected = loss(model, by_hand(task.test.inputs, 2), task.test.labels)
    assert run.test_loss(0) == pytest.approx(expected, rel=1e-4)


def test_training_draws_the_same_examples_and_costs_the_same() -> None:
    population = started()
    run = population.run_of(0)
    plain, price = run._lane(0, {0: 3}).interval, run.step_cost(0)
    take(population, "template_3")
    read = run._lane(0, {0: 3}).interval
    assert torch.equal(read.labels, plain.labels) and run.step_cost(0) == price
    assert read.inputs.shape == plain.inputs.shape
    flat = plain.inputs.flatten(0, 1)
    assert torch.equal(read.inputs.flatten(0, 1), by_hand(flat, 3)) and not torch.equal(read.inputs, plain.inputs)


def test_a_row_with_a_template_is_the_same_alone_and_beside_one_without() -> None:
    found = []
    for rows in ([0, 1], [0]):
        population = started(executor="batched")
        run = population.run_of(0)
        take(population, "template_1")
        run.train(rows)
        found.append(run.evaluate(rows)[0])
        assert not difference(found[0], found[-1])
    assert np.isfinite(found[0].train_loss)


def test_only_texts_that_are_classified_and_have_room_are_put_in_a_template() -> None:
    names = ("template_off", "template_1", "template_2", "template_3")

    def allowed(population: Population) -> list[bool]:
        return [catalog.get("actions", name)().allowed(population.run_of(0), 0) for name in names]

    population = started()
    assert allowed(population) == [False, True, True, True]
    take(population, "template_2")
    assert allowed(population) == [True, True, False, True]
    population.run_of(0).states[0].problem.task.tokens = 14
    assert allowed(population) == [True, True, False, False]
    for task in ("tagging", "seq2seq", "causal_lm"):
        assert not any(allowed(started(task)))


def test_a_roll_back_brings_the_template_back_with_the_weights() -> None:
    population = started()
    run = population.run_of(0)
    take(population, "template_1")
    run.states[0].best_loss = run.states[0].best_priced = torch.inf
    run.evaluate([0])
    take(population, "save_1")
    assert run.soup_candidates(0) == ["1"]
    take(population, "template_3")
    assert run.soup_candidates(0) == [], "the best loss was measured on other texts"
    take(population, "load_1")
    assert run.states[0].hyperparameters.template == 1
    take(population, "template_off")
    run.load_best(0)
    assert run.states[0].hyperparameters.template == 1


def test_a_verbalised_head_has_the_embeddings_of_the_names_and_its_own_norm() -> None:
    population = started()
    run = population.run_of(0)
    own, encoded = _encoded(FAMILIES["classification"], "train", "llama")
    before = hugging_face(run, run.effective([0])[0])
    take(population, "verbaliser_labels")
    after = hugging_face(run, run.effective([0])[0])
    table = before.get_input_embeddings().weight
    means = [table[own.tokenizer(name)["input_ids"]].mean(0) for name in encoded.labels]
    for mean, row in zip(means, after.score.weight, strict=True):
        assert torch.nn.functional.cosine_similarity(mean, row, dim=0).item() == pytest.approx(1, abs=1e-5)
    scale = after.score.weight.norm(dim=1) / torch.stack(means).norm(dim=1)
    torch.testing.assert_close(scale, scale[:1].expand_as(scale))
    torch.testing.assert_close(after.score.weight.norm(), before.score.weight.norm())
    others = [(name, value) for name, value in after.named_parameters() if name != "score.weight"]
    assert all(torch.equal(value, before.get_parameter(name)) for name, value in others)
    # The twin's head, and the best weights', are as they were.
    for row in (run.effective([1])[0], run.delivered(0)[0]):
        assert torch.equal(hugging_face(run, row).score.weight, before.score.weight)


@pytest.mark.parametrize("optimizer", ["optimizer_adamw", "optimizer_schedule_free"])
def test_the_head_that_was_comes_back_and_its_moments_begin_anew(optimizer: str) -> None:
    population = started()
    run = population.run_of(0)
    if optimizer != "optimizer_adamw":
        take(population, optimizer)
    run.train([0])
    run.evaluate([0])
    before = run.effective([0])[0].clone()
    take(population, "verbaliser_labels")
    head = run.layout.unflatten(run.effective([0])[0])["score.weight"].clone()
    moments = run.rows[0].own_full()
    first, second = (run.layout.unflatten(part[0])["score.weight"] for part in (moments.first, moments.second))
    assert not second.any()
    assert torch.equal(first, head if optimizer == "optimizer_schedule_free" else torch.zeros_like(head))
    assert run.layout.unflatten(moments.second[0])[run.layout.embedding].any()
    take(population, "verbaliser_off")
    assert torch.equal(run.effective([0])[0], before)


def test_only_a_head_with_weights_of_its_own_is_verbalised_and_only_once() -> None:
    names = ("verbaliser_labels", "verbaliser_off")

    def allowed(population: Population) -> list[bool]:
        return [catalog.get("actions", name)().allowed(population.run_of(0), 0) for name in names]

    population = started()
    run = population.run_of(0)
    assert allowed(population) == [True, False]
    take(population, "save_1", "verbaliser_labels", "save_2")
    assert allowed(population) == [False, True]
    take(population, "load_1")
    assert allowed(population) == [True, False] and not run.states[0].hyperparameters.verbalised
    take(population, "load_2")
    assert allowed(population) == [False, False], "these weights may have said names instead of another head"
    take(population, "load_1", "prune_more")
    assert allowed(population) == [False, False], "a pruned head would fill up"
    for task in ("tagging", "seq2seq", "causal_lm"):
        assert not any(allowed(started(task)))


def test_no_mean_of_weights_brings_another_head_back() -> None:
    population = started()
    run = population.run_of(0)
    take(population, "save_1", "swa_collect")
    run.train([0])
    run.evaluate([0])
    assert run.states[0].collected and run.states[0].averaged_steps
    run.verbalise(0)
    assert not run.states[0].collected and not run.states[0].averaged_steps
    assert torch.equal(run.rows[0].averaged, run.effective([0])[0])
    run.states[0].loss = math.inf
    assert run.soup_candidates(0) == []


def test_a_verbalised_head_goes_to_the_disk_and_back() -> None:
    population = started()
    for name in ("verbaliser_labels", "template_2", "keep"):
        population.step({0: SPEC.menu.index(name)})
    tensors, meta = pack(population.snapshot(0))
    instance = instance_of("classification")
    restored = unpack(safetensors.torch.load(tensor_bytes(tensors)), json.loads(json.dumps(meta)), instance,
                      SPEC.build(instance), None)  # fmt: skip
    other = started()
    other.restore(0, restored)
    for name in ("verbaliser_off", "keep"):
        one, again = (which.step({0: SPEC.menu.index(name)})[0] for which in (population, other))
        assert one.measurement == again.measurement
    assert not difference(population.snapshot(0).row.tensors, other.snapshot(0).row.tensors)


def test_examples_of_two_classes_stand_before_texts_in_all_splits() -> None:
    population = started()
    run = population.run_of(0)
    task = run.states[0].problem.task
    task.tokens = 200  # room for more than the texts need
    task.validation = Examples(wider(task.validation.inputs), task.validation.labels)
    ids, labels = task.sources[0]
    other = int(np.flatnonzero(labels[:, 0] != labels[0, 0])[0])
    own, encoded = _encoded(FAMILIES["classification"], "train", "llama")

    def text(place: int) -> str:
        return own.tokenizer.decode(ids[place][ids[place] != PADDING])

    asked = ""
    for place in (0, other):
        take(population, "shots_more")
        asked += f"{text(place)}\n{encoded.labels[labels[place, 0]]}\n"
        read = run.states[0].validation.inputs
        for row, plain in zip(read, task.validation.inputs, strict=True):
            whole = own.tokenizer(asked + own.tokenizer.decode(plain[plain != PADDING]))["input_ids"]
            assert row[: len(whole)].tolist() == whole and (row[len(whole) :] == PADDING).all()
    assert not catalog.get("actions", "shots_more")().allowed(run, 0)
    take(population, "shots_0")
    assert run.states[0].validation is task.validation


def wider(inputs: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(inputs, (0, 200 - inputs.shape[1]), value=PADDING)


def test_an_example_changes_what_is_read_and_restoring_undoes_it() -> None:
    population = started(executor="batched")
    run = population.run_of(0)
    here = population.snapshot(0)
    plain = run._lane(0, {0: 2}).interval
    take(population, "shots_more")
    read = run._lane(0, {0: 2}).interval
    assert read.inputs.shape == plain.inputs.shape and torch.equal(read.labels, plain.labels)
    shown = (read.inputs == read.inputs[0, 0]).flatten(0, 1).all(0)
    assert shown[:8].all() and not shown.all()
    run.train([0])
    run.evaluate([0])
    population.restore(0, here)
    assert not difference(here, population.snapshot(0))
    run.train([0, 1])
    restored, never = run.evaluate([0, 1])
    assert not difference(never, restored)


def test_examples_are_shown_where_there_is_room_only() -> None:
    population = started()
    run = population.run_of(0)
    more = catalog.get("actions", "shots_more")()
    assert more.allowed(run, 0) and not catalog.get("actions", "shots_0")().allowed(run, 0)
    take(population, "shots_more")
    run.states[0].problem.task.tokens = 20
    assert not more.allowed(run, 0) and not catalog.get("actions", "template_3")().allowed(run, 0)
    for task in ("tagging", "seq2seq", "causal_lm"):
        assert not more.allowed(started(task).run_of(0), 0)


def test_a_model_that_is_delivered_reads_texts_as_they_are() -> None:
    menu = own_spec(example_own(), WHOLE_MENU).menu
    assert "verbaliser_labels" in menu and not any(name.startswith(("template", "shots")) for name in menu)
