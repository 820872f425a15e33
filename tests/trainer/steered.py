"""A small Trainer with an agent inside that does what it is told, for the tests of `llmo.TrainerCallback`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    Trainer,
    TrainingArguments,
)

import llmo
from llmo.agent import Agent
from llmo.trainer.callback import RECORD

STEPS, RATE = 20, 1e-3


class Sequences(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The class is whether the last token is above 20."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, 40, (count, 8), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": (ids[-1] > 20).long()}


class Told(Agent):
    """Does what it is told, by number of the decision."""

    def __init__(self, moves: dict[int, str]) -> None:
        self.moves = moves

    def reset(self, seeds: Any) -> None:
        super().reset(seeds)
        self.asked = 0
        self.seen: list[NDArray[np.float32]] = []
        self.masks: list[NDArray[np.bool_]] = []

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        assert bool(episode_start[0]) == (self.asked == 0)
        self.seen.append(observation[0])
        self.masks.append(mask[0])
        move = self.moves.get(self.asked, "keep")
        self.asked += 1
        return np.array([self.space.action(move)])

    def explain(self) -> list[str]:
        return ["told to"]


def model(dropout: float | None = None) -> Any:
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, num_labels=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForSequenceClassification.from_config(config)
    if dropout is not None:
        made.model.layers[0].mlp.act_fn = torch.nn.Sequential(
            made.model.layers[0].mlp.act_fn, torch.nn.Dropout(dropout)
        )
    return made


def trainer(
    folder: Path, moves: dict[int, str] | None = None, dropout: float | None = None, **settings: Any
) -> Trainer:
    args: dict[str, Any] = {
        "max_steps": STEPS, "per_device_train_batch_size": 8, "learning_rate": RATE, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "seed": 1, "logging_steps": 1,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    torch.set_num_threads(1)
    made = Trainer(
        model(dropout),
        TrainingArguments(str(folder), **{**args, **settings}),
        train_dataset=Sequences(400, 0),
        eval_dataset=Sequences(64, 1),
    )
    if moves is not None:
        callback = llmo.TrainerCallback(agent="keep", decisions=10)
        callback._agent = Told(moves)
        made.add_callback(callback)
    return made


def agent_of(made: Trainer) -> Told:
    agent = next(c for c in made.callback_handler.callbacks if isinstance(c, llmo.TrainerCallback))._agent
    assert isinstance(agent, Told)
    return agent


def rates(made: Trainer) -> list[float]:
    return [line["learning_rate"] for line in made.state.log_history if "loss" in line]


def weights(made: Trainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in made.model.named_parameters()}  # type: ignore[union-attr]


def decisions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]
