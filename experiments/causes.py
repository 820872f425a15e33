"""How well causes are named: a confusion matrix on runs whose bottleneck was put there on purpose.

    llmo causes --out runs/causes

The runs keep on from beginning to end; the cause is named when 80% of the budget is spent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llmo.atomic import write_text_atomic
from llmo.errors import at_least
from llmo.registry import experiments
from llmo.run_dir import RunDir

NAMED_AT = 0.8
"""Share of the budget that is spent when a cause is named."""
ENV = "llmo/Continual-v0"
"""Whose observations are read: they show what is forgotten."""


@experiments.register("causes")
def causes(
    out: Path = Path("runs/causes"),
    instances: int = 24,
    split: Literal["train", "dev", "test"] = "test",
    resume: bool = False,
) -> None:
    """Name the causes of planted runs.

    Args:
        out: Folder for `causes.json`, `causes.md` and `causes.png`.
        instances: Runs for each cause, from index 0.
        split: Part of the plants: thresholds were set on ``train``.
        resume: Whether the folder may hold a result already.

    Raises:
        LlmoError: A number is out of range.
    """
    given = locals().copy()
    from llmo.evaluation.effect_plots import plot_confusion
    from llmo.evaluation.provenance import command, provenance
    from llmo.mdp.plants import PLANTS

    at_least(1, instances=instances)
    with RunDir(out, resume):
        named = {cause: name_all(cause, split, instances) for cause in PLANTS}
        right = sum(found.count(cause) for cause, found in named.items())
        content = {
            "split": split,
            "instances": instances,
            "command": command("causes", causes, given),
            **provenance(),
            "right": right / (instances * len(named)),
            "matrix": {cause: dict(Counter(found)) for cause, found in named.items()},
        }
        write_text_atomic(out / "causes.json", json.dumps(content, indent=1) + "\n")
        write_text_atomic(out / "causes.md", table(content) + "\n")
        plot_confusion(content, out / "causes.png")
    print(table(content))


def name_all(cause: str, split: str, instances: int) -> list[str]:
    """The causes that are named on plants of one."""
    from llmo.diagnostics.causes import diagnose
    from llmo.mdp.plants import planted_instance
    from llmo.mdp.population import Population
    from llmo.mdp.spec import env_spec

    spec = env_spec(ENV)
    population, keep = Population(spec, instances, executor="batched"), spec.menu.index("keep")
    population.reset({slot: planted_instance(cause, split, slot) for slot in range(instances)})
    named: dict[int, str] = {}
    going = list(range(instances))
    while going:
        steps = population.step(dict.fromkeys(going, keep))
        for slot in going:
            if steps[slot].measurement.spent >= NAMED_AT or steps[slot].terminated:
                named[slot], _ = diagnose(population.observe(slot))
        going = [slot for slot in going if slot not in named]
    return [named[slot] for slot in range(instances)]


def table(content: Mapping[str, Any]) -> str:
    """The matrix as Markdown."""
    from llmo.diagnostics.causes import CAUSES

    lines = [
        f"{content['right']:.0%} of {content['instances'] * len(content['matrix'])} {content['split']} plants are "
        "named rightly. Rows: planted; columns: named.",
        "",
        f"| | {' | '.join(CAUSES)} |",
        f"| --- |{' --- |' * len(CAUSES)}",
    ]
    for cause in CAUSES:
        found = content["matrix"][cause]
        lines.append(f"| {cause} | {' | '.join(str(found.get(name, '')) for name in CAUSES)} |")
    return "\n".join(lines)
