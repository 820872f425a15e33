import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmo.errors import LlmoError
from llmo.policy_file import load_policy, save_policy

SETTINGS = {"layers": [64, 64], "rate": 0.1 + 0.2, "recurrent": False}


def saved(folder: Path) -> dict[str, torch.Tensor]:
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    tensors = {"w": weights, "transposed": weights.T, "half": weights.bfloat16(), "scalar": torch.tensor(7)}
    save_policy(folder, tensors, SETTINGS, {"steps": 100})
    return tensors


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    tensors = saved(tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    assert (policy.settings, policy.card) == (SETTINGS, {"steps": 100})
    assert policy.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert policy.tensors[name].dtype == tensor.dtype
        assert torch.equal(policy.tensors[name], tensor)
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == ["policy.json", "policy.safetensors"]


def test_saving_again_replaces_the_policy_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    save_policy(tmp_path, {"w": torch.ones(1)}, {}, {})
    assert load_policy(tmp_path).tensors["w"].item() == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
def test_damaged_weights_are_refused_by_name(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    saved(tmp_path)
    damage(tmp_path / "policy.safetensors")
    with pytest.raises(LlmoError, match=r"policy\.safetensors"):
        load_policy(tmp_path)


def later_format(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))


def array(path: Path) -> None:
    path.write_text("[]")


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_text(path.read_text()[:40]), empty, Path.unlink, later_format, array]
)
def test_a_damaged_description_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    saved(tmp_path)
    damage(tmp_path / "policy.json")
    with pytest.raises(LlmoError, match=r"policy\.json"):
        load_policy(tmp_path)


def test_a_failed_save_keeps_the_old_policy(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(TypeError):
        save_policy(tmp_path, {"w": torch.ones(1)}, {"not json": object()}, {})
    assert load_policy(tmp_path).settings == SETTINGS


def test_loading_unpickles_nothing(python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    saved(tmp_path / "policy")
    program = """
import sys
import torch
from llmo.policy_file import load_policy
events = []
sys.addaudithook(lambda event, _: events.append(event) if event.startswith("pickle") else None)
load_policy("policy")
print(len(events))
import pickle, collections
pickle.loads(pickle.dumps(collections.OrderedDict))
print(len(events))
"""
    # The second number shows that the hook would have counted.
    assert python("-c", program).stdout.split() == ["0", "1"]
