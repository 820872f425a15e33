"""`llmo improve`, killed (SIGKILL) at seeded random moments and gone on with `--resume`: `killed.py FOLDER KILLS SEED`.

Runs are forked from a process that has imported everything, so that kills meet the run and not Python's start, and they
save after every step, so that there is something to go on from. Prints a line for each kill and, at the end, JSON.
"""

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from llmo.cli import main
from llmo.evaluation.own import improve
from llmo.evaluation.own.session import Session

WORDS = "the a green red small large old new cat dog bird fish house tree runs sits sings sleeps".split()


def write_data(folder: Path) -> None:
    """Sentences, labelled by whether a cat is in them."""
    folder.mkdir()
    for name, count, seed in (("train", 300, 0), ("valid", 60, 1), ("test", 60, 2)):
        draw = random.Random(seed)
        rows = [draw.choices(WORDS, k=5) for _ in range(count)]
        lines = (json.dumps({"text": " ".join(words), "label": str("cat" in words)}) for words in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def started(folder: Path, out: Path, resume: bool) -> int:
    """Fork a run; gives its process's id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with (folder / "said.txt").open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        given = ["--model", "scratch:8x1", "--data", str(folder / "data"), "--task", "classification"]
        given += ["--budget", "1e8flops", "--batch", "8", "--out", str(out), "--resume", str(resume).lower()]
        status = main(["improve", *given])
        (folder / "modules.json").write_text(json.dumps(sorted(sys.modules)))
    finally:
        os._exit(status)


def ended(child: int, within: float | None = None) -> bool:
    """Wait for a run, or kill it after some seconds; whether it came to its end.

    Raises:
        RuntimeError: It failed.
    """
    stop = time.monotonic() + (within or float("inf"))
    while True:
        waited, status = os.waitpid(child, os.WNOHANG)
        if waited:
            break
        if time.monotonic() >= stop:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"a run ended with status {status}")
    return True


def content(out: Path) -> dict[str, bytes]:
    """What must not depend on kills."""
    files = [out / "decisions.jsonl", *sorted((out / "model").iterdir())]
    return {file.name: file.read_bytes() for file in files}


def killed(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill runs until there were so many kills; each goes on to its end and is compared with one that nobody killed."""
    draw, done, runs, same = random.Random(seed), 0, 0, 0
    folder.mkdir(exist_ok=True)
    write_data(folder / "data")
    ended(started(folder, folder / "whole", False))
    for name in json.loads((folder / "modules.json").read_text()):
        with suppress(ImportError):
            import_module(name)
    begin = time.monotonic()
    ended(started(folder, folder / "again", False))
    length = time.monotonic() - begin
    while done < kills:
        out, first = folder / f"run-{runs}", True
        while not ended(started(folder, out, not first), draw.uniform(0.01, 1.2 * length) if done < kills else None):
            done, first = done + 1, False
            record = out / "decisions.jsonl"
            steps = record.read_bytes().count(b"\n") if record.exists() else 0
            print(f"kill {done}: run {runs} after {steps} steps, model {(out / 'model').exists()}", flush=True)
        runs, same = runs + 1, same + (content(out) == content(folder / "whole"))
    return {"kills": done, "runs": runs, "same": same}


if __name__ == "__main__":
    torch.set_num_threads(1)
    improve.Session = partial(Session, saved_every=0.0)  # type: ignore[assignment, misc]

    print(json.dumps(killed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
