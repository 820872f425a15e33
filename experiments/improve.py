"""Improves a model of yours on data of yours: `llmo improve --model M --data D --task classification --budget 10min`.

A policy trains the model and decides on the way: rate, regularisation, augmentation, adapters, distillation, roll back.
The folder gets `model/` (loads with `from_pretrained`), `decisions.jsonl`, `result.json` and `report.html`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmo.cautious import USUAL
from llmo.errors import LlmoError
from llmo.registry import experiments

if TYPE_CHECKING:
    from llmo.evaluation.own.session import Session


@experiments.register("improve")
def improve(
    model: str = "",
    data: str = "",
    task: str = "",
    budget: str = "10min",
    out: Path = Path("runs/improve"),
    columns: list[str] | None = None,
    agent: str = "ppo",
    policy: str = "",
    batch: int = 16,
    lora: int = 0,
    keep_adapter: bool = False,
    seed: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
    checkpointing: bool = False,
    device: str = "cpu",
    synonyms: Path | None = None,
    advise: bool = False,
    compare: bool = False,
    resume: bool = False,
) -> None:
    """Improve a model of yours on data of yours.

    Args:
        model: Its folder, its name on the hub, or scratch:WIDTHxDEPTH for a small fresh Llama.
        data: A folder with train, valid and test files (txt, md, jsonl, csv, parquet, arrow), one file, or a data set's
            name on the hub, with its configuration where it has several, as in glue:cola.
        task: What it learns: ``causal_lm``, ``classification``, ``regression``, ``tagging`` or ``seq2seq``.
        budget: How much may be spent, such as 10min, 3epochs or 2e14flops.
        out: Folder for the model, the decisions and the report.
        columns: Which column is what, as in text=body,label=topic; by default guessed and said.
        agent: Registered name of who decides.
        policy: Folder of a policy for an agent that learns; by default the one that it comes with for your models.
        batch: Sequences in an optimizer step.
        lora: Rank of LoRA factors on the frozen model, 2, 4 or 8; 0 trains all weights.
        keep_adapter: Whether the model's folder holds the factors as an adapter of PEFT, not merged into the model.
        seed: Of batches, fresh weights and splits.
        precision: Of the passes; weights are float32 in any case.
        checkpointing: Whether activations are computed again in the backward pass instead of kept.
        device: Where it is trained, such as ``cuda``.
        synonyms: Table with the columns word and synonyms (separated by ;), for agents that augment by synonyms; by
            default neighbours in the embedding.
        advise: Only say what the agent would do first, and why.
        compare: Also train by the usual recipes at the same budget, and compare on the test examples.
        resume: Continue the run in the folder.

    Raises:
        LlmoError: Something about the model, the data or a number; nothing is written over.
    """
    given = locals().copy()
    from llmo.engine.ranks import first_rank
    from llmo.engine.single import SingleSettings
    from llmo.evaluation.own.improve import advise as first_advice
    from llmo.evaluation.own.improve import improve_model
    from llmo.evaluation.own.order import Wishes
    from llmo.evaluation.own.report import write_report
    from llmo.evaluation.processes import one_thread
    from llmo.evaluation.provenance import command, provenance
    from llmo.mdp.own_source import OwnSource, columns_of

    source = OwnSource(model, data, task, columns_of(columns), seed)  # type: ignore[arg-type]
    single = SingleSettings(precision, checkpointing=checkpointing)
    wishes = Wishes(budget, agent, policy, batch, lora, seed, device, single, synonyms, keep_adapter)
    if keep_adapter and model.startswith("scratch:"):
        raise LlmoError("model with keep_adapter", model, "one that is there without this run, to put the adapter on")
    if (
        not advise
        and not resume
        and first_rank()
        and out.is_dir()
        and any(entry.name != "lock" for entry in out.iterdir())
    ):
        raise LlmoError("run folder", str(out), "a new or empty folder, or --resume to continue the run in it")
    one_thread()
    opened = source.open()
    say = partial(print, flush=True) if first_rank() else _nothing
    for note in (*opened.data.notes, *opened.encoded.notes):
        say(note)
    order = wishes.order(opened)
    if advise:
        action, why, (cause, evidence) = first_advice(order)
        print(f"{cause}: {evidence}\n{agent} would begin with {action}: {why}")
        return
    say(f"{'step':>4}  {'budget':>6}  {'training':>8}  {'validation':>10}  {'rate':>8}  action")
    result = improve_model(order, out, resume=resume, against=compare, say=say, on_step=partial(_show, say))
    if not first_rank():
        return
    line, origin = command("improve", improve, given), provenance()
    versions = ", ".join(f"{key} {value}" for key, value in origin["versions"].items())
    facts = {"command": line, "commit": origin["commit"], "versions": versions, "machine": origin["machine"]}
    report = write_report(result, out, f"How {opened.name} was improved", facts)
    print("test: " + ", ".join(f"{key} {value:.4g}" for key, value in _main(result.before.metrics).items()) + " before")
    print("test: " + ", ".join(f"{key} {value:.4g}" for key, value in _main(result.after.metrics).items()) + " after")
    for rival, comparison in result.against.items():
        print(f"loss lower than by {rival}: {comparison}")
    print(f"the model is in {out / 'model'}, what was done in {report}")


def _main(metrics: dict[str, float]) -> dict[str, float]:
    """Without the single entities' ones."""
    return {name: value for name, value in metrics.items() if "_" not in name or name in ("macro_f1", "exact_match")}


def _nothing(text: str) -> None:
    """What processes say that help the first one."""


def _show(say: Callable[[str], None], session: Session) -> None:
    last, before = session.decisions[-1], session.decisions[-2:-1]
    if last.why.startswith(USUAL) and not (before and before[0].why.startswith(USUAL)):
        say(f"      {last.why}")
    say(
        f"{last.step:>4}  {last.spent:>6.0%}  {last.train_loss:>8.3f}  {last.validation_loss:>10.3f}  "
        f"{last.learning_rate:>8.2g}  {'' if last.action == 'keep' else last.action}"
    )
