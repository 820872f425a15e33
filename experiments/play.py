"""Plays one episode and shows it step by step; the record can be replayed.

llmo play llmo/LanguageModel-v0 --agent reflection --instance 3 --out runs/play
llmo replay runs/play

Under `accelerate launch` several processes train the model together (docs/large_models.md); the first one prints and
writes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from llmo.registry import experiments


@experiments.register("play")
def play_one(
    env: str,
    agent: str = "reflection",
    instance: int = 0,
    split: Literal["train", "dev", "test"] = "dev",
    budget: float = 1.0,
    seed: int = 0,
    policy: str = "",
    precision: Literal["float32", "bfloat16"] = "float32",
    accumulation: int = 1,
    checkpointing: bool = False,
    out: Path = Path("runs/play"),
) -> None:
    """Play one episode and show it step by step.

    Args:
        env: Registered name of the environment.
        agent: Registered name of the agent.
        instance: Index of the instance in its split.
        split: Which instances.
        budget: Multiple of the instance's own budget.
        seed: Of what is random in the agent.
        policy: Folder of a learned policy; by default the one that comes with a learned agent.
        precision: Of the model's passes; its weights are float32 in any case.
        accumulation: In how many micro-batches an optimizer step sees its batch.
        checkpointing: Whether activations are computed again in the backward pass instead of kept.
        out: Folder that gets the episode's record.
    """
    given = locals().copy()
    from llmo import catalog
    from llmo.agent import LearningAgent
    from llmo.engine.ranks import first_rank, launched
    from llmo.engine.single import SingleSettings
    from llmo.errors import at_least
    from llmo.evaluation.episodes import episode_file
    from llmo.evaluation.processes import one_thread
    from llmo.evaluation.provenance import command
    from llmo.evaluation.result import policy_job, tuned_job
    from llmo.evaluation.rollout import play
    from llmo.evaluation.scoring_log import log_scoring
    from llmo.mdp import render
    from llmo.mdp.population import Population
    from llmo.mdp.spec import env_spec

    one_thread()
    spec = env_spec(env)
    spec.draw(split, instance, budget)
    at_least(0, seed=seed)
    if policy or issubclass(catalog.get("agents", agent), LearningAgent):
        job = policy_job(env, split, instance, agent, policy, seed, budget)
    else:
        job = tuned_job(env, split, instance, agent, seed, budget)
    settings = SingleSettings(precision, accumulation, checkpointing)
    # A record names what a replay must do again; with other settings or processes the numbers round differently.
    exact = settings == SingleSettings() and not launched()
    job = replace(job, executor="single" if exact else f"single, {settings}{' of several ranks' * launched()}")
    catalog.make_agent(job.agent, **dict(job.parameters)).bind(spec.space)
    file = out / episode_file(job)
    if first_rank():
        file.parent.mkdir(parents=True, exist_ok=True)
    population = Population(spec, executor="single", single=settings)

    def show() -> None:
        if first_rank():
            print(render.as_text(population.episode(0).history), flush=True)

    (record,) = play([job], on_step=show, population=population)
    if not first_rank():
        return
    record.save(file)
    result = record.result
    log_scoring(split, command("play", play_one, given), {agent: result.test_loss})
    print(f"{agent}: validation loss {result.initial_validation_loss:.3f} -> {result.validation_loss:.3f}")
    print(f"test loss {result.test_loss:.3f}, reward {result.total_reward:.2f}, written to {file}")
