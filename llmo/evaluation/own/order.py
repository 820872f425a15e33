"""What is asked of an improvement: a model, its data, who decides, and how much may be spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmo.engine.choice import valid_device
from llmo.engine.single import SingleSettings
from llmo.errors import LlmoError, at_least
from llmo.evaluation.own.budget import Budget
from llmo.mdp.own import OwnProblem
from llmo.mdp.own_source import Opened, check_sizes
from llmo.tasks.own.columns import OwnTask
from llmo.tasks.own.synonyms import read_synonyms

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH = 16


@dataclass(frozen=True)
class Order:
    """What is to be done; a run folder that is resumed has the same.

    Attributes:
        own: The model and its data; its budget is set by the probe.
        tokenizer: Of the model.
        task: What is learned.
        labels: Names of classes or tags.
        agent: Name of the agent that decides.
        policy: Folder of its policy; empty for the one that it comes with.
        budget: How much may be spent.
        seed: Of the batches, and of what is random in the agent.
        device: Where the model is trained.
        single: In which precision and parts.
        keep_adapter: Whether the factors are delivered as an adapter of PEFT instead of merged.
    """

    own: OwnProblem
    tokenizer: PreTrainedTokenizerFast
    task: OwnTask
    labels: tuple[str, ...]
    agent: str
    policy: str
    budget: Budget
    seed: int = 0
    device: str = "cpu"
    single: SingleSettings = SingleSettings()
    keep_adapter: bool = False


@dataclass(frozen=True)
class Wishes:
    """What a user may ask for besides a model and data.

    Attributes:
        budget: Such as ``10min``, ``3epochs`` or ``2e14flops``.
        agent: Registered name of who decides.
        policy: Folder of its policy; empty for the one that it comes with.
        batch: Sequences in an optimizer step.
        lora: Rank of LoRA factors on the frozen model; 0 trains all weights.
        seed: Of the batches, and of what is random in the agent.
        device: Where the model is trained.
        single: In which precision and parts.
        synonyms: Table of words and what may stand for them, for augmentation; None for neighbours in the embedding.
        keep_adapter: Whether the factors are delivered as an adapter of PEFT instead of merged; needs `lora`.

    Raises:
        LlmoError: One of them is not usable.
    """

    budget: str
    agent: str = "ppo"
    policy: str = ""
    batch: int = BATCH
    lora: int = 0
    seed: int = 0
    device: str = "cpu"
    single: SingleSettings = SingleSettings()
    synonyms: Path | None = None
    keep_adapter: bool = False

    def __post_init__(self) -> None:
        check_sizes(self.batch, self.lora)
        if self.keep_adapter and not self.lora:
            raise LlmoError("keep_adapter", self.keep_adapter, "False without lora, which trains an adapter")
        at_least(0, seed=self.seed)
        Budget.parse(self.budget)
        valid_device(self.device)

    def order(self, opened: Opened) -> Order:
        """The order for a model and data.

        Raises:
            LlmoError: The table of synonyms cannot be used.
        """
        own = opened.problem(self.batch, self.lora, 1.0)
        if self.synonyms is not None:
            own.task.synonyms = read_synonyms(self.synonyms)
        return Order(
            own=own,
            tokenizer=opened.tokenizer,
            task=opened.data.task,
            labels=opened.encoded.labels,
            agent=self.agent,
            policy=self.policy,
            budget=Budget.parse(self.budget),
            seed=self.seed,
            device=self.device,
            single=self.single,
            keep_adapter=self.keep_adapter,
        )
