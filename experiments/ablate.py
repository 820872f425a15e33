"""What each part of learning is worth: `llmo ablate --out runs/ablate` trains with one thing changed at a time.

Every policy learns for as many steps, and all play the same dev instances.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmo import catalog
from llmo.atomic import write_text_atomic
from llmo.errors import LlmoError, at_least
from llmo.registry import experiments
from llmo.run_dir import RunDir

if TYPE_CHECKING:
    from llmo.evaluation.result import EpisodeRecord
    from llmo.evaluation.statistics import Array
    from llmo.evaluation.workers import Workers

SPLIT = "dev"
EXECUTOR = "compiled"
COLUMNS = (("iqm", "low", "high"), ("mean", "mean_low", "mean_high"))


@dataclass(frozen=True)
class Variant:
    """One thing that is not as `llmo train` does it.

    Attributes:
        suffix: Of the environment's name, where it is another one.
        agent: Registered name of the agent that learns.
        train: Other options of `llmo train`.
    """

    suffix: str = ""
    agent: str = "ppo"
    train: Mapping[str, Any] = field(default_factory=dict)

    @property
    def env(self) -> str:
        """Registered name of the environment."""
        return f"llmo/LanguageModel{self.suffix}-{'v0' if self.suffix == '-Full' else 'v1'}"


BASE = "base"
SHUFFLED = "shuffled_observations"
VARIANTS = {
    BASE: Variant(),
    "imitation_only": Variant(train={"steps": 0}),
    "no_warm_start": Variant(train={"demonstrations": 0}),
    "reward_gain": Variant(train={"reward": "gain"}),
    "reward_final": Variant(train={"reward": "final"}),
    "gamma_0.99": Variant(train={"gamma": 0.99}),
    "half_population": Variant(train={"replicas": 32}),
    "double_population": Variant(train={"replicas": 128}),
    "four_frames": Variant(agent="ppo_stacked"),
    "recurrent": Variant(agent="ppo_recurrent"),
    "no_data_actions": Variant("-NoData"),
    "no_swap_actions": Variant("-NoSwaps"),
    "no_gradient_features": Variant("-NoGradients"),
    "no_action_history": Variant("-NoHistory"),
    "whole_menu": Variant("-Full"),
}


@experiments.register("ablate")
def ablate(
    out: Path = Path("runs/ablate"),
    variants: list[str] | None = None,
    steps: int = 24_576,
    demonstrations: int = 512,
    instances: int = 192,
    first: int = 1000,
    seed: int = 0,
    workers: str | int = "processes",
    resume: bool = False,
) -> None:
    """Train policies with one thing changed at a time and compare each with the one where nothing was changed.

    Args:
        out: Folder for `ablations.json` and for every training and episode.
        variants: Names of what is changed; all by default. The base comes with them.
        steps: Environment steps that each learns from.
        demonstrations: How many train instances the teacher plays before.
        instances: How many dev instances are played.
        first: Index of the first of them.
        seed: Of everything random in learning.
        workers: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core, ``ray`` or ``ray:N``.
        resume: Continue in the folder.

    Raises:
        LlmoError: A name is unknown or a number out of range.
    """
    given = locals().copy()
    from llmo.evaluation.provenance import command, provenance
    from llmo.evaluation.workers import find_workers

    at_least(1, instances=instances)
    at_least(0, first=first, seed=seed)
    for name in variants or ():
        if name not in VARIANTS:
            raise LlmoError("variant", name, list(VARIANTS))
    found = find_workers(workers)
    train = catalog.get("experiments", "train")
    options = {"steps": steps, "demonstrations": demonstrations, "seed": seed, "workers": workers}
    records: dict[str, list[EpisodeRecord]] = {}
    with RunDir(out, resume) as run:
        run.settle({"steps": steps, "demonstrations": demonstrations, "seed": seed})
        for name in dict.fromkeys([BASE, *(variants or VARIANTS)]):
            variant, folder = VARIANTS[name], out / name
            if not (folder / "policy" / "policy.json").exists():
                settings = {"executor": EXECUTOR, **options, **variant.train}
                train(variant.env, agent=variant.agent, **settings, out=folder, resume=True)
            records[name] = _play(variant.env, variant.agent, folder, range(first, first + instances), found)
        shuffled = _play(VARIANTS[BASE].env, "ppo_shuffled", out / BASE, range(first, first + instances), found)
        content = {
            "command": command("ablate", ablate, given),
            "split": SPLIT,
            "instances": instances,
            "first": first,
            **provenance(),
            "variants": against_base({**records, SHUFFLED: shuffled}),
        }
        write_text_atomic(out / "ablations.json", json.dumps(content, indent=1) + "\n")
    print(table(content))


def _play(env: str, agent: str, folder: Path, indices: range, workers: Workers) -> list[EpisodeRecord]:
    """What the policy in a run folder reaches."""
    from llmo.evaluation.episodes import play_all
    from llmo.evaluation.result import policy_job

    jobs = [policy_job(env, SPLIT, index, agent, str(folder / "policy")) for index in indices]
    jobs = [replace(job, executor=EXECUTOR) for job in jobs]
    return play_all(jobs, folder / "episodes", workers, what=f"{folder.name}, in episodes")


def against_base(records: Mapping[str, list[EpisodeRecord]]) -> dict[str, dict[str, float]]:
    """How much lower the test loss of each variant is than the base's, in percent; see `compare` in `llmo.evaluation`.

    Args:
        records: Of every variant, on the same instances in the same order; those of the base among them.
    """
    import numpy as np

    from llmo.evaluation.paired import compare
    from llmo.evaluation.statistics import Bootstrap

    def losses(name: str) -> tuple[str, Array]:
        return name, np.array([[math.log(record.result.test_loss) for record in records[name]]])

    bootstrap = Bootstrap([record.result.text_group for record in records[BASE]])
    return {name: compare(losses(name), losses(BASE), bootstrap) for name in records if name != BASE}


def table(content: Mapping[str, Any]) -> str:
    """The result as a Markdown table, the worst first."""
    lines = [
        f"{content['instances']} {content['split']} instances; percent of test loss against the base; below 0, "
        "what was changed is missed.",
        "",
        "| changed | IQM, % | mean, % |",
        "| --- | --- | --- |",
    ]
    for name, row in sorted(content["variants"].items(), key=lambda item: item[1]["iqm"]):
        cells = [f"{row[key]:+.2f} [{row[low]:+.2f}, {row[high]:+.2f}]" for key, low, high in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
