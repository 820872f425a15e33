"""A slot on the disk: tensors and JSON, and a run that goes on from them bit for bit, whatever it has been through."""

import json

import pytest
import safetensors.torch
import torch

from llmo.atomic import tensor_bytes
from llmo.evaluation.compare import difference
from llmo.mdp.continual_instances import draw_continual_instance
from llmo.mdp.instances import Instance, draw_rescaled_instance
from llmo.mdp.population import Population
from llmo.mdp.private_instances import draw_private_instance
from llmo.mdp.saved import pack, unpack
from llmo.mdp.spec import env_spec

WALKS = {
    "llmo/LanguageModel-Full-v0": (
        ["keep", "save_1", "swa_collect", "write_top_p", "anchor_set", "optimizer_schedule_free", "prune_more", "keep"],
        ["save_1", "optimizer_lion", "adapter_dora", "distil_best", "swap_1", "soup_load", "select_hard", "keep"],
        ["keep", "units_prune", "heads_prune", "save_2", "student_smaller", "units_widen", "keep"],
        ["save_1", "predict_average", "save_3", "adapter_lora", "predict_alone", "predict_average"],
        ["keep", "quantise_int8", "save_3", "smooth_more", "perturb_noise", "batch_double", "keep"],
    ),
    "llmo/Continual-v0": (["keep"] * 15 + ["replay_more", "anchor_set", "keep"],),
    "llmo/Private-v0": (["keep", "noise_down", "keep", "noise_up", "keep"],),
}
DRAWS = {
    "llmo/LanguageModel-Full-v0": draw_rescaled_instance,
    "llmo/Continual-v0": draw_continual_instance,
    "llmo/Private-v0": draw_private_instance,
}


def cheap(env: str) -> Instance:
    drawn = (DRAWS[env]("train", index, 1.5) for index in range(300))
    whole = (one for one in drawn if set(one.closed) <= {"source"} and not one.teacher)
    return next(one for one in whole if one.shape.depth == 1 and one.interval < 12 and len(one.phases) < 3)


@pytest.mark.parametrize(("env", "walk"), [(env, walk) for env, walks in WALKS.items() for walk in walks])
def test_a_run_goes_on_from_the_disk_as_if_it_had_not_stopped(env: str, walk: list[str]) -> None:
    torch.set_num_threads(1)
    spec, instance = env_spec(env), cheap(env)
    population = Population(spec, 1, executor="batched")
    population.reset({0: instance})
    for name in walk:
        action = spec.menu.index(name)
        assert population.mask(0)[action], name
        population.step({0: action})
    tensors, meta = pack(population.snapshot(0))
    tensors = safetensors.torch.load(tensor_bytes(tensors))
    meta = json.loads(json.dumps(meta))
    restored = unpack(tensors, meta, instance, spec.build(instance), None)
    other = Population(spec, 1, executor="batched")
    other.restore(0, restored)
    assert not difference(population.snapshot(0).row.tensors, other.snapshot(0).row.tensors)
    keep = spec.menu.index("keep")
    for _ in range(2):
        one, again = population.step({0: keep})[0], other.step({0: keep})[0]
        assert one.measurement == again.measurement and one.reward == again.reward
        assert (population.mask(0) == other.mask(0)).all() and (population.observe(0) == other.observe(0)).all()
