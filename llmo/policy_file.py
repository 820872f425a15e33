"""A learned policy as two plain files, tensors and JSON: nothing in them can execute code when they are read.

``policy.safetensors`` has the weights; ``policy.json`` has the settings that rebuild the network, a card that says how
it was learned, and the sha256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmo.atomic import replacing, tensor_bytes, write_bytes_synced
from llmo.errors import LlmoError

if TYPE_CHECKING:
    import numpy as np
    import torch

TENSORS = "policy.safetensors"
DESCRIPTION = "policy.json"
FORMAT = 1


@dataclass(frozen=True)
class PolicyFile:
    """What a policy folder holds.

    Attributes:
        tensors: Weights by name, on the CPU.
        settings: A JSON object: what is needed to rebuild the network.
        card: A JSON object for people: how, on what and by which version the policy was learned.
    """

    tensors: dict[str, torch.Tensor]
    settings: dict[str, Any]
    card: dict[str, Any]


def save_policy(
    folder: str | Path,
    tensors: Mapping[str, torch.Tensor | np.ndarray],
    settings: Mapping[str, Any],
    card: Mapping[str, Any],
) -> None:
    """Write a policy into a folder, which is made if need be; a policy in it is replaced.

    Both files are complete on the disk before either takes its name; a pair torn by a crash is refused on load.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = tensor_bytes(tensors)
    description = {
        "format": FORMAT,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "settings": dict(settings),
        "card": dict(card),
    }
    text = json.dumps(description, indent=2) + "\n"
    with replacing(folder / DESCRIPTION) as new_description, replacing(folder / TENSORS) as new_weights:
        write_bytes_synced(new_weights, weights)
        write_bytes_synced(new_description, text.encode())


def policy_sha256(folder: str | Path) -> str:
    """The hash of a policy's weights, which `load_policy` compares them with.

    Raises:
        LlmoError: There is no policy in the folder.
    """
    path = Path(folder) / DESCRIPTION
    try:
        return str(json.loads(path.read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LlmoError("policy", str(folder), f"a folder that `llmo train` wrote ({error})") from error


def load_policy(folder: str | Path) -> PolicyFile:
    """Read a policy folder.

    Raises:
        LlmoError: A file is missing, altered, cut short or of a later format; the error names it.
    """
    import safetensors
    import safetensors.torch

    path = Path(folder) / DESCRIPTION
    try:
        description = json.loads(path.read_bytes())
        if description["format"] != FORMAT:
            raise LlmoError("policy file", str(path), f"format {FORMAT}, not {description['format']!r}")
        settings, card, expected = dict(description["settings"]), dict(description["card"]), description["sha256"]
        path = Path(folder) / TENSORS
        weights = path.read_bytes()
        if hashlib.sha256(weights).hexdigest() != expected:
            raise LlmoError("policy file", str(path), f"the weights that {DESCRIPTION} names: altered or cut short")
        return PolicyFile(safetensors.torch.load(weights), settings, card)
    except LlmoError:
        raise
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise LlmoError("policy file", str(path), f"one that is whole ({type(error).__name__}: {error})") from error
