"""The main job in one command: `llmo demo --out runs/demo`.

Learns a policy for a few minutes, compares it with every hand rule on held-out training problems, and draws the report.
"""

from __future__ import annotations

from pathlib import Path

from llmo.registry import experiments

ENV = "llmo/LanguageModel-v1"


@experiments.register("demo")
def demo(
    out: Path = Path("runs/demo"),
    steps: int = 6144,
    demonstrations: int = 128,
    instances: int = 32,
    seed: int = 0,
    workers: str | int = "processes",
    resume: bool = False,
) -> None:
    """Learn a policy, compare it with every hand rule, draw the report.

    Args:
        out: Folder for everything.
        steps: Environment steps to learn from.
        demonstrations: Train instances that the teacher plays first, and that are learned on.
        instances: Held-out instances to compare on.
        seed: Of everything random in learning.
        workers: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core, ``ray`` or ``ray:N``.
        resume: Continue in the folder.

    Raises:
        LlmoError: A number is out of range, or the folder holds another demo.
    """
    from llmo import catalog
    from llmo.errors import at_least
    from llmo.evaluation.workers import find_workers

    at_least(1, instances=instances)
    found = find_workers(workers)
    train, benchmark, report = (catalog.get("experiments", name) for name in ("train", "benchmark", "report"))
    print(f"1 of 3: PPO learns how to train small language models, on {found}")
    train(ENV, steps=steps, demonstrations=demonstrations, seed=seed, workers=workers, out=out / "train", resume=resume)
    print(f"2 of 3: the policy against every hand rule, on {instances} training problems that it has never met")
    # The folder holds the training by now, so it is not new: what is resumed is the demo.
    policy = [str(out / "train" / "policy")]
    benchmark(ENV, policy=policy, instances=instances, workers=workers, out=out, resume=True)
    print("3 of 3: the report")
    report(out)
