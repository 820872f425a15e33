"""Classification, tagging and sequence to sequence: what their instances draw, and what they become."""

import numpy as np
import pytest
import torch
from transformers import T5ForConditionalGeneration

from llmo.engine.layout import Layout
from llmo.engine.models import load_pretrained
from llmo.kinds import IGNORED, PADDING
from llmo.mdp.instances import Instance
from llmo.mdp.labelled_instances import FAMILIES, _encoded
from llmo.mdp.population import Population
from llmo.mdp.spec import EnvSpec, env_spec
from llmo.tasks.labelled import Labelled
from llmo.tasks.text import PARTS

NAMES = ("llmo/Classification-v0", "llmo/Tagging-v0", "llmo/SequenceToSequence-v0")


def drawn(spec: EnvSpec, part: str = "train", count: int = 60) -> list[Instance]:
    return [spec.draw(part, index, 1.0) for index in range(count)]


def task_of(spec: EnvSpec, instance: Instance) -> Labelled:
    task = spec.build(instance).task
    assert isinstance(task, Labelled)
    return task


def rows(task: Labelled) -> set[bytes]:
    parts = [*(ids for ids, _ in task.sources), task.validation.inputs.numpy(), task.test.inputs.numpy()]
    return {row.tobytes() for part in parts for row in part}


@pytest.mark.parametrize("name", NAMES)
def test_parts_share_no_example_no_seed_and_no_shape(name: str) -> None:
    spec = env_spec(name)
    seeds, shapes, texts = [], [], []
    for part in PARTS:
        instances = drawn(spec, part)
        seeds.append({instance.seed for instance in instances})
        shapes.append({(instance.shape.width, instance.shape.depth) for instance in instances})
        same = [i for i in instances if i.shape.family == instances[0].shape.family][:6]
        texts.append(set().union(*(rows(task_of(spec, instance)) for instance in same)))
    for sets in (seeds, shapes, texts):
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


@pytest.mark.parametrize("name", NAMES)
def test_held_out_examples_are_not_learned(name: str) -> None:
    spec = env_spec(name)
    for instance in drawn(spec, count=6):
        task = task_of(spec, instance)
        learned = {row.tobytes() for ids, _ in task.sources for row in ids}
        validation, test = ({row.tobytes() for row in part.inputs.numpy()} for part in (task.validation, task.test))
        assert not (learned & validation or learned & test or validation & test)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_wrong_with_a_source_is_as_drawn(name: str) -> None:
    """Clean material of the same instance index tells what the labels and the texts were."""
    spec = env_spec(name)
    seen = set()
    for instance in drawn(spec):
        whole = {row.tobytes(): place for place, row in enumerate(_clean(spec, instance)[0])}
        for source, (ids, labels) in zip(instance.sources, task_of(spec, instance).sources, strict=True):
            known = [whole.get(row.tobytes()) for row in ids]
            garbled = source.domain != instance.domain
            assert (sum(place is None for place in known) > len(ids) / 2) == garbled
            if garbled or len(ids) < 100:
                continue
            right = _clean(spec, instance)[1][known]
            counts = right != IGNORED
            assert np.array_equal(counts, labels != IGNORED)
            changed = float(np.mean(labels[counts] != right[counts]))
            assert changed <= source.noise + 0.1
            assert (changed > 0.15) == (source.noise > 0)
            seen.add(source.kind)
    assert {"clean", "noisy"} <= seen


def _clean(spec: EnvSpec, instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    family = FAMILIES[instance.task]  # type: ignore[index]
    task = _encoded(family, instance.part, instance.shape.family)[1].task
    assert isinstance(task, Labelled)
    return task.sources[0]


def test_answers_are_never_garbled() -> None:
    """The decoder reads the right tokens, whatever its labels and the text are."""
    spec = env_spec("llmo/SequenceToSequence-v0")
    instance = next(i for i in drawn(spec) if i.shape.family == "t5" and any(s.domain != i.domain for s in i.sources))
    task = task_of(spec, instance)
    whole = {row[-task.positions :].tobytes() for row in _clean(spec, instance)[0]}
    for ids, _ in task.sources:
        assert {row[-task.positions :].tobytes() for row in ids} <= whole


@pytest.mark.parametrize("name", NAMES)
def test_a_pretrained_start_has_the_weights_of_its_base_but_for_the_head(name: str) -> None:
    spec = env_spec(name)
    instance = next(i for i in drawn(spec) if i.start == "pretrained")
    assert spec.model is not None
    layout, base = Layout(spec.model(instance)), load_pretrained(instance.base_model)
    views = layout.unflatten(spec.build(instance).weights)
    for parameter, tensor in base.named_parameters():
        torch.testing.assert_close(views[parameter], tensor, rtol=0, atol=0)


def test_both_families_learn_summaries() -> None:
    spec = env_spec("llmo/SequenceToSequence-v0")
    found = {}
    for instance in drawn(spec):
        found.setdefault(instance.shape.family, instance)
    assert set(found) == {"llama", "t5"}
    assert spec.model is not None
    assert isinstance(spec.model(found["t5"]), T5ForConditionalGeneration)
    assert (task_of(spec, found["t5"]).validation.inputs == PADDING).any()
    population = Population(spec, 2, executor="batched")
    population.reset({0: found["llama"], 1: found["t5"]})
    keep = spec.menu.index("keep")
    before = [population.episode(slot).history.last.validation_loss for slot in (0, 1)]
    population.step({0: spec.menu.index("rate_default"), 1: spec.menu.index("rate_default")})
    for _ in range(2):
        population.step({0: keep, 1: keep})
    after = [population.episode(slot).history.last.best_validation_loss for slot in (0, 1)]
    assert all(later < earlier for earlier, later in zip(before, after, strict=True))
