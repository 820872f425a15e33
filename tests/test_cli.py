import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmo import __version__, catalog
from llmo.cli import main

Python = Callable[..., subprocess.CompletedProcess[str]]

PLUGIN = '''
from __future__ import annotations

import errno, time
from pathlib import Path
from typing import Literal

from llmo.errors import LlmoError
from llmo.registry import agents, experiments


@agents.register("stranger")
class Stranger:
    """Comes from elsewhere."""


@experiments.register("cook")
def cook(
    dish: str,
    spoons: int = 3,
    herbs: list[str] | None = None,
    times: tuple[float, ...] = (1.0,),
    heat: Literal["low", "high"] = "low",
    out: Path = Path("runs/cook"),
    resume: bool = False,
) -> None:
    """Cook a dish.

    It takes a while.

    Args:
        dish: What to cook.
        spoons: How many spoons.
    """
    if dish == "interrupted":
        raise KeyboardInterrupt
    if dish == "slow":
        print("cooking", flush=True)
        time.sleep(60)
    if dish == "much":
        raise OSError(errno.ENOSPC, "No space left on device", "pot")
    if dish == "bad":
        raise LlmoError("dish", dish, ("bread", "soup"))
    print(repr((dish, spoons, herbs, times, heat, out.name, resume)))
'''


@pytest.fixture
def llmo(tmp_path: Path, python: Python) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in a folder with a stranger's plug-in."""
    (tmp_path / "kitchen.py").write_text(PLUGIN)
    return lambda *arguments: python("-m", "llmo", *arguments, LLMO_PLUGINS="")


def cooked(result: subprocess.CompletedProcess[str]) -> tuple[object, ...]:
    assert result.returncode == 0, result.stderr
    return eval(result.stdout)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        for name in ("list", "check", "replay", *catalog.declared("experiments")):
            assert f"\n  {name}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"llmo {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lst"], ["command 'lst'", "did you mean 'list'"]),
        (["--hepl"], ["option '--hepl'", "did you mean '--help'"]),
        (["list", "agnets"], ["kind 'agnets'", "did you mean 'agents'"]),
        (["list", "--all"], ["option '--all'"]),
        (["check"], ["one NAME"]),
        (["check", "a", "b"], ["one NAME"]),
        (["replay"], ["one DIR"]),
        (["--plugin"], ["--plugin ''"]),
        (["--plugin", "no_such_module", "list"], ["plug-in 'no_such_module'", "No module named"]),
    ],
)
def test_a_wrong_value_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err


def test_list_shows_every_entry_of_the_observation(capsys: pytest.CaptureFixture[str]) -> None:
    from llmo.diagnostics.features import WHOLE_NAMES

    assert main(["list", "features"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == list(WHOLE_NAMES)


@pytest.mark.parametrize(
    "arguments", [("--plugin", "kitchen", "list", "agents"), ("list", "agents", "--plugin=kitchen")]
)
def test_list_shows_a_strangers_plugin(
    llmo: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str]
) -> None:
    result = llmo(*arguments)
    assert result.returncode == 0, result.stderr
    assert [line.split(maxsplit=2) for line in result.stdout.splitlines() if "stranger" in line] == [
        ["agent", "stranger", "Comes from elsewhere."]
    ]


def test_list_without_a_kind_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert rows == [[registry.kind, name] for registry in catalog.KINDS.values() for name in registry.names()]


def test_list_into_a_closed_pipe_is_quiet(python: Python) -> None:
    program = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'llmo', 'list'], stdout=subprocess.PIPE,"
    )
    program += " stderr=subprocess.PIPE); p.stdout.close(); print(p.stderr.read(), p.wait())"
    assert python("-c", program).stdout == "b'' 141\n"


def test_an_experiment_gets_typed_arguments(llmo: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    base = ("--plugin", "kitchen", "cook")
    assert cooked(llmo(*base, "soup")) == ("soup", 3, None, (1.0,), "low", "cook", False)
    arguments = ("--herbs", "dill,mint", "--resume", "--times=1,2.5", "soup", "--out", "/x/y", "--heat", "high")
    assert cooked(llmo(*base, *arguments)) == ("soup", 3, ["dill", "mint"], (1.0, 2.5), "high", "y", True)


def test_the_command_line_wins_over_a_file(
    llmo: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    base = ("--plugin", "kitchen", "cook")
    (tmp_path / "c.yaml").write_text("dish: stew\nspoons: 7\nresume: true\n")
    assert cooked(llmo(*base, "--config", "c.yaml"))[:2] == ("stew", 7)
    result = cooked(llmo(*base, "soup", "--resume", "false", "--spoons", "9", "--config=c.yaml"))
    assert (*result[:2], result[-1]) == ("soup", 9, False)
    printed = llmo(*base, "pie", "--print_config", "--config", "c.yaml")
    assert printed.stdout.splitlines()[:2] == ["dish: pie", "spoons: 7"]
    (tmp_path / "d.yaml").write_text(printed.stdout)
    assert cooked(llmo(*base, "--config", "d.yaml")) == ("pie", 7, None, (1.0,), "low", "cook", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["soup", "--spons", "4"], ["option of llmo cook '--spons'", "did you mean '--spoons'"]),
        (["soup", "--spons=4"], ["'--spons'", "did you mean '--spoons'"]),
        (["soup", "--spo", "4"], ["'--spo'", "did you mean '--spoons'"]),
        (["soup", "--spoons", "many"], ["spoons", "'many'", "int"]),
        (["soup", "--heat", "hgh"], ["heat", "hgh", "low", "high"]),
        (["soup", "bread"], ["bread"]),
        ([], ["dish"]),
        (["soup", "--config", "none.yaml"], ["none.yaml"]),
        (["soup", "--config", "bad.yaml"], ["'spons'", "did you mean 'spoons'"]),
        (["bad"], ["dish 'bad'", "did you mean 'bread'"]),
    ],
)
def test_a_wrong_option_is_one_line(
    llmo: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("spons: 4\n")
    result = llmo("--plugin", "kitchen", "cook", *arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    for word in words:
        assert word in result.stderr


def test_help_of_an_experiment_describes_its_parameters(llmo: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    out = llmo("cook", "--help", "--plugin", "kitchen").stdout
    for text in ("usage: llmo cook", "Cook a dish.", "How many spoons.", "--print_config", "--config FILE.yaml"):
        assert text in out


def test_interrupted_and_full_disk(llmo: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    interrupted = llmo("--plugin", "kitchen", "cook", "interrupted")
    assert (interrupted.returncode, interrupted.stderr) == (130, "llmo: interrupted\n")
    full = llmo("--plugin", "kitchen", "cook", "much")
    assert full.returncode == 1
    assert full.stderr == "llmo: cannot write: [Errno 28] No space left on device: 'pot'\n"


def test_control_c_ends_a_command_quietly(llmo: Callable[..., object], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmo", "--plugin", "kitchen", "cook", "slow"]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # A shell's background jobs ignore the interrupt, and so would what they start.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=tmp_path, preexec_fn=heeding, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "cooking\n"
        started = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "llmo: interrupted\n")
    assert time.monotonic() - started < 30


def test_a_first_argument_is_the_first_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it has a default, as the environment of `train` does, in whose place a model can be given."""
    with pytest.raises(SystemExit, match="0"):
        main(["train", "llmo/LanguageModel-v1", "--steps", "3", "--print_config"])
    assert "env: llmo/LanguageModel-v1" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--steps", "3", "llmo/LanguageModel-v1"])
