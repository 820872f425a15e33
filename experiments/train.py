"""Learns a policy: `llmo train llmo/LanguageModel-v1 --out runs/train`.

A teacher plays some train instances first. The policy imitates it and then learns on the same instances, where it is
rewarded for what it gains more than the teacher did. The run folder holds `policy/` (safetensors and JSON),
`progress.jsonl` (a line for each update), TensorBoard's record, and checkpoints from which `--resume` continues
exactly.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmo.atomic import write_text_atomic
from llmo.errors import LlmoError, at_least
from llmo.registry import experiments
from llmo.run_dir import RunDir

if TYPE_CHECKING:
    from llmo.agent import LearningAgent
    from llmo.evaluation.demonstrations import Demonstrations
    from llmo.evaluation.own.budget import Budget
    from llmo.evaluation.workers import Workers
    from llmo.mdp.own_source import OwnSource
    from llmo.mdp.reference import Curve

FAMILIAR = 64
"""Train instances that a policy plays when it has learned, to tell later what it knows."""
CURVES = "curves.json"
"""File in the run folder with what the teacher reached."""


@dataclass(frozen=True)
class Settings:
    """What a run folder's policy follows from; a resumed run has the same. `own` is a user's model and data, if any."""

    env: str
    agent: str
    seed: int
    steps: int
    teacher: str
    demonstrations: int
    reward: str
    replicas: int
    executor: str
    gamma: float
    own: dict[str, Any] | None = None
    start: str = ""


@experiments.register("train")
def train(
    env: str = "",
    agent: str = "ppo",
    steps: int = 150_000,
    out: Path = Path("runs/train"),
    seed: int = 0,
    teacher: str = "tutor",
    start: str = "",
    demonstrations: int = 1024,
    reward: str = "relative",
    gamma: float = 1.0,
    replicas: int = 64,
    workers: str | int = "processes",
    executor: Literal["batched", "compiled"] | None = None,
    device: str = "cpu",
    model: str = "",
    data: str = "",
    task: str = "",
    budget: str = "2min",
    columns: list[str] | None = None,
    batch: int = 16,
    lora: int = 0,
    resume: bool = False,
) -> None:
    """Learn a policy on train instances: of an environment, or of a model and data of yours.

    Args:
        env: Registered name of the environment; none with a model of yours.
        agent: Registered name of the learning agent.
        steps: Environment steps to learn from, demonstrations not counted; with 0 the policy only imitates.
        out: Run folder.
        seed: Of everything random in learning.
        teacher: Agent that is imitated first.
        start: Policy folder to go on from, or ``shipped`` for the one that the agent comes with (for models of yours
            it comes with another); it is its own teacher.
        demonstrations: How many train instances the teacher plays, which are learned on; 0 learns from nothing, on all.
        reward: ``gain``, ``relative`` (less what the teacher gained, or without one the reference rule) or ``final``.
        gamma: Discount of rewards, above 0 and at most 1.
        replicas: Training runs side by side, shared evenly by the workers.
        workers: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core, ``ray`` or ``ray:N``.
        executor: ``compiled`` trains the runs faster, after a minute of compiling; by default where that is paid back.
        device: Where the runs are trained, such as ``cuda``.
        model: A model of yours that is trained again and again; see `llmo improve`.
        data: What it is trained on.
        task: What it learns.
        budget: Of the longest training, such as 2min, 3epochs or 2e14flops; others have down to a quarter of it.
        columns: Which column is what, as in text=body,label=topic; by default guessed.
        batch: Sequences in an optimizer step of it.
        lora: Rank of LoRA factors on it, 2, 4 or 8; 0 trains all weights.
        resume: Continue the run in the folder.

    Raises:
        LlmoError: A name is unknown, a number out of range, or the folder holds another run.
    """
    from llmo import catalog
    from llmo.agent import LearningAgent
    from llmo.engine.choice import population_executor, valid_device
    from llmo.evaluation.demonstrations import valid_teacher
    from llmo.evaluation.own.budget import Budget
    from llmo.evaluation.workers import find_workers
    from llmo.mdp.own_source import OwnSource, columns_of
    from llmo.mdp.reward import valid_reward
    from llmo.mdp.spec import env_spec

    at_least(1, replicas=replicas)
    at_least(0, steps=steps, demonstrations=demonstrations, seed=seed)
    own = OwnSource(model, data, task, columns_of(columns), seed) if model or data else None  # type: ignore[arg-type]
    if own is None:
        env_spec(env)
    elif env:
        raise LlmoError("environment with --model", env, "none: a model of yours is one")
    learner = catalog.make_agent(agent)
    if not isinstance(learner, LearningAgent):
        raise LlmoError("agent", agent, "one that learns, such as ppo")
    valid_teacher(teacher)
    if start:
        learner = catalog.make_agent(agent, policy=_start_of(agent, learner, start, own is not None))
    valid_reward(reward)
    if not 0 < gamma <= 1:
        raise LlmoError("gamma", gamma, "above 0 and at most 1")
    valid_device(device)
    found = find_workers(workers, replicas)
    with RunDir(out, resume) as run:
        if own is not None:
            env = _own_env(run, own, Budget.parse(budget), batch, lora, device)
        # A policy that is gone on from is its own teacher.
        teacher = agent if start else teacher
        chosen = executor or run.settled("executor") or population_executor(steps)
        asked = {**asdict(own), "budget": budget, "batch": batch, "lora": lora} if own is not None else None
        settings = Settings(
            env, agent, seed, steps, teacher, demonstrations, reward, replicas, chosen, gamma, asked, start
        )
        run.settle(asdict(settings))
        _learn(learner, run, settings, found, device)
        learner.save(run.path / "policy", _card(settings, run.path))
        _remember(run.path / "policy", settings, found)
    print(f"the policy is in {out / 'policy'}")


def _start_of(agent: str, learner: LearningAgent, start: str, own: bool) -> str:
    """The folder that `--start` means.

    Raises:
        LlmoError: The agent cannot go on from a policy, or no policy comes with it.
    """
    if not learner.goes_on:
        raise LlmoError("agent with --start", agent, "one that goes on from a policy, such as ppo")
    if start != "shipped":
        return start
    shipped = (own and learner.shipped_own) or learner.shipped
    if shipped is None:
        raise LlmoError("start", start, "a policy folder: none comes with this agent")
    return str(shipped)


def _own_env(run: RunDir, source: OwnSource, budget: Budget, batch: int, rank: int, device: str) -> str:
    """The environment of a user's model and data, from a file of the run folder; a budget in time becomes FLOPs."""
    from llmo.engine.single import SingleSettings
    from llmo.evaluation.own.budget import probe
    from llmo.mdp.own import BUDGETS, own_spec, with_affordable_validation
    from llmo.mdp.own_source import write_own
    from llmo.mdp.spec import env_spec

    file = (run.path / "own.json").resolve()
    if not file.exists():
        own = source.open().problem(batch, rank, 1.0)
        flops = probe(own, SingleSettings(), device).flops(budget)
        # A training of the least budget has to have a step.
        own_spec(with_affordable_validation(replace(own, budget=flops / BUDGETS))).draw("test", 0, 1.0)
        write_own(file, source, batch, rank, flops)
    name = f"llmo/Own-v0:{file}"
    env_spec(name)
    return name


def _learn(learner: LearningAgent, run: RunDir, settings: Settings, workers: Workers, device: str) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from llmo.evaluation.progress import Progress
    from llmo.evaluation.workers import population_env
    from llmo.mdp.spec import env_spec

    latest = run.latest_checkpoint()
    moves, curves = None, _known(run.path / CURVES)
    if settings.demonstrations and (latest is None or not curves):
        moves = _demonstrated(settings, workers, learner.policy)
        curves = moves.curves
        write_text_atomic(run.path / CURVES, json.dumps({index: vars(curve) for index, curve in curves.items()}))
    reference = _reference_return(settings, curves)
    writer = SummaryWriter(str(run.path / "tensorboard"))
    done = latest.meta["env_steps"] if latest else 0
    # Not before: the workers of a population hold their cores for good.
    given = {"seed": settings.seed, "reward": settings.reward, "executor": settings.executor, "device": device}
    venv = population_env(settings.env, settings.replicas, workers, curves=curves, **given)
    lost = 0
    with closing(venv), Progress(f"{settings.agent} learns, in env steps", settings.steps, done) as progress:

        def on_update(line: dict[str, Any]) -> None:
            nonlocal lost
            line["lost_episodes"] = venv.lost_episodes - lost
            lost = venv.lost_episodes
            line["reference_return"] = reference
            notes = []
            if line["return"] is not None:
                writer.add_scalar("return", line["return"], line["env_steps"])
                notes.append(f"return {line['return']:.2f}")
            if reference is not None:
                notes.append(f"teacher {reference:.2f}")
            if lost:
                notes.append(f"{lost} episodes lost")
            progress.advance(line["env_steps"] - progress.done, ", ".join(notes))

        space = env_spec(settings.env).space
        learner.learn(space, venv, settings.steps, run, moves, on_update, seed=settings.seed, gamma=settings.gamma)
    writer.close()


def _demonstrated(settings: Settings, workers: Workers, policy: str) -> Demonstrations:
    """What the teacher does and reaches on the train instances that are learned on."""
    asked = settings.demonstrations, workers, settings.replicas, settings.executor
    return _demonstrated_once(settings.env, settings.teacher, *asked, policy)


@lru_cache(maxsize=1)
def _demonstrated_once(
    env: str, teacher: str, count: int, workers: Workers, replicas: int, executor: str, policy: str
) -> Demonstrations:
    """The same, only once for trainings that follow each other."""
    from llmo.evaluation.demonstrations import demonstrate

    return demonstrate(env, teacher, range(count), workers, replicas, executor, policy)


def _remember(policy: Path, settings: Settings, workers: Workers) -> None:
    """Write beside the policy what it has met, as it plays some train instances."""
    from llmo.evaluation.demonstrations import demonstrate
    from llmo.familiar import Familiar

    indices = range(min(FAMILIAR, settings.demonstrations or settings.replicas))
    played = demonstrate(
        settings.env, settings.agent, indices, workers, settings.replicas, settings.executor, str(policy)
    )
    Familiar.of(played.observations).save(policy)


def _known(file: Path) -> dict[int, Curve]:
    """The curves that a run folder has already."""
    from llmo.mdp.reference import Curve

    if not file.exists():
        return {}
    content = json.loads(file.read_text())
    return {int(index): Curve(tuple(one["spent"]), tuple(one["losses"])) for index, one in content.items()}


def _reference_return(settings: Settings, curves: dict[int, Curve]) -> float | None:
    """Mean return of the teacher, in the units of the reward; None without one."""
    if not curves:
        return None
    gains = [curve.gain(0.0, 1.0) for curve in curves.values()]
    return 0.0 if settings.reward == "relative" else sum(gains) / len(gains)


def _card(settings: Settings, folder: Path) -> dict[str, Any]:
    """How the policy was learned."""
    from llmo.evaluation.provenance import provenance

    progress = folder / "progress.jsonl"
    lines = progress.read_text().splitlines() if progress.exists() else []
    return {**asdict(settings), "env_steps": json.loads(lines[-1])["env_steps"] if lines else 0, **provenance()}
