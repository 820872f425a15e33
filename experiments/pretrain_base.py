"""Makes what the package ships: the tokenizer, and the models that an instance starts from or learns from.

All of it is trained on training text of train instances only, so whatever dev and test instances measure is new to it.
On one machine the same Python gives the same bytes every time; a few minutes on two cores.

    llmo pretrain_base
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmo.registry import experiments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

TEACHER_SHAPE = (48, 2)
TRANSFER_SHAPES: tuple[tuple[Any, ...], ...] = ((56, 3), (32, 2, "gpt2"))
"""Of the environments that policies are carried over to."""
TOKENS = 32
BATCH = 16


@dataclass(frozen=True)
class Recipe:
    """One training and the checkpoints it leaves.

    Attributes:
        domain: What it is trained on.
        shape: Width and depth, and the family where it is not Llama.
        steps: Optimizer steps of 16 x 32 tokens; the rate warms up over 5% of them and follows a cosine to zero.
        rate: Peak learning rate of AdamW.
        checkpoints: Folder name by the step after which it is saved.
    """

    domain: str
    shape: tuple[Any, ...]
    steps: int
    rate: float
    checkpoints: Mapping[int, str]


@dataclass(frozen=True)
class Made:
    """A row of the table beside the models.

    Attributes:
        name: Folder of the model.
        parameters: How many it has.
        steps: Optimizer steps it had.
        losses: Validation loss of the train part by domain, nats per token.
    """

    name: str
    parameters: int
    steps: int
    losses: Mapping[str, float]


def recipes() -> list[Recipe]:
    """Every training, the longest first."""
    from llmo.engine.models import ModelShape
    from llmo.mdp.sizes import SHAPES
    from llmo.tasks.text import DOMAINS

    shapes: list[tuple[Any, ...]] = [(shape.width, shape.depth) for part in SHAPES.values() for shape in part]
    teachers = [
        Recipe(domain, TEACHER_SHAPE, 4000, 4e-3, {400: f"teacher-{domain}-early", 4000: f"teacher-{domain}-good"})
        for domain in DOMAINS
    ]
    bases = [
        Recipe(domain, shape, 2000, 6e-3, {2000: f"base-{domain}-{ModelShape(*shape)}"})
        for shape in (*shapes, *TRANSFER_SHAPES)
        for domain in DOMAINS
    ]
    return teachers + bases


def make_tokenizer(file: Path) -> None:
    """Train the byte-level BPE tokenizer on as much text of each domain as the smallest has.

    Args:
        file: Where to write its JSON.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from llmo.atomic import write_text_atomic
    from llmo.engine.models import VOCABULARY
    from llmo.tasks.text import DOMAINS, raw_text

    texts = [raw_text("train", "training", domain) for domain in DOMAINS]
    length = min(map(len, texts))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator((text[:length] for text in texts), trainer)
    write_text_atomic(file, tokenizer.to_str(pretty=True))


def validation_loss(model: PreTrainedModel, tokens: NDArray[np.int16]) -> float:
    """Mean cross-entropy over the text in windows of 32 tokens, nats per token."""
    import torch

    total = len(tokens) // (TOKENS + 1)
    windows = torch.from_numpy(tokens[: total * (TOKENS + 1)].astype("int64")).view(total, TOKENS + 1)
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()))


def pretrain(
    recipe: Recipe, training: NDArray[np.int16], validation: Mapping[str, NDArray[np.int16]], out: Path
) -> list[Made]:
    """Follow one recipe.

    Args:
        recipe: What to train.
        training: Tokens of the recipe's domain to train on.
        validation: Tokens to report the loss on, by domain.
        out: Folder in which each checkpoint gets a folder, in half precision.
    """
    import numpy as np
    import torch

    from llmo.engine.models import ModelShape, build_model

    seed = zlib.crc32(f"{recipe.domain} {recipe.shape}".encode())
    model = build_model(ModelShape(*recipe.shape), seed)
    draws = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.1)
    warm_up = recipe.steps // 20
    made = []
    for step in range(1, recipe.steps + 1):
        cosine = 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm_up) / (recipe.steps - warm_up))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(step / warm_up, cosine)
        starts = draws.integers(0, len(training) - TOKENS, BATCH)
        windows = torch.from_numpy(training[starts[:, None] + np.arange(TOKENS + 1)].astype(np.int64))
        logits = model(windows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in recipe.checkpoints:
            name = recipe.checkpoints[step]
            losses = {domain: validation_loss(model, tokens) for domain, tokens in validation.items()}
            made.append(Made(name, model.num_parameters(), step, losses))
            _save(model, out / name)
    return made


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Write the weights in half precision and the configuration, replacing the folder as a whole."""
    import copy

    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    copy.deepcopy(model).half().save_pretrained(temporary)
    (temporary / "generation_config.json").unlink(missing_ok=True)
    temporary.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def table(made: list[Made]) -> str:
    """The README beside the models, in Markdown."""
    domains = list(made[0].losses)
    lines = [
        "# Pre-trained models",
        "",
        "Small models in half precision, trained on training text of train instances only. `llmo pretrain_base` makes",
        "them again. The losses are on validation text of train instances, in nats per token.",
        "",
        "| name | parameters | steps | " + " | ".join(domains) + " |",
        "| --- " * (3 + len(domains)) + "|",
    ]
    for row in sorted(made, key=lambda row: row.name):
        losses = " | ".join(f"{row.losses[domain]:.3f}" for domain in domains)
        lines.append(f"| {row.name} | {row.parameters} | {row.steps} | {losses} |")
    return "\n".join(lines) + "\n"


@experiments.register("pretrain_base")
def pretrain_base(out: Path = Path("llmo/tasks"), workers: str | int = "processes") -> None:
    """Make the tokenizer and all pre-trained models again.

    Args:
        out: Folder that gets `tokenizer.json` and `pretrained/`; the default is the package's own, from the checkout.
        workers: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core, ``ray`` or ``ray:N``.
    """
    import numpy as np
    from tokenizers import Tokenizer

    from llmo.atomic import write_text_atomic
    from llmo.evaluation.spread import spread
    from llmo.evaluation.workers import find_workers
    from llmo.tasks.text import DOMAINS, raw_text

    found = find_workers(workers)
    models = out / "pretrained"
    models.mkdir(parents=True, exist_ok=True)
    make_tokenizer(out / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    training, validation = (
        {domain: np.array(tokenizer.encode(raw_text("train", split, domain)).ids, np.int16) for domain in DOMAINS}
        for split in ("training", "validation")
    )
    made: list[Made] = []
    calls = [(recipe, training[recipe.domain], validation, models) for recipe in recipes()]
    for _, checkpoints in spread(pretrain, calls, found):
        made += checkpoints
        print(f"{made[-1].name}: " + ", ".join(f"{name} {loss:.3f}" for name, loss in made[-1].losses.items()))
    write_text_atomic(models / "README.md", table(made))
