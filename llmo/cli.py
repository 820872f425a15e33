"""The commands: ``list``, ``check``, ``replay``, and every file of the experiments folder.

Nothing heavy is imported before a command is known, so that ``llmo --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence

from llmo import __version__, catalog
from llmo.errors import LlmoError, WorkerError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows ``llmo`` on the command line; by default `sys.argv`.

    Returns:
        The exit status: 0; 1 when a check fails or the disk is full; 2 for a value that is not usable; 130 when
        interrupted; 141 when the output is no longer read.
    """
    try:
        status = _run(_use_plugins(list(sys.argv[1:] if arguments is None else arguments)))
        sys.stdout.flush()
        return status
    except WorkerError as error:
        print(f"llmo: {error}", file=sys.stderr)
        return 1
    except LlmoError as error:
        print(f"llmo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("llmo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone, as in `llmo list | head`: keep the interpreter from failing on the same pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"llmo: {'cannot write: ' if error.errno in DISK_FULL else ''}{error}", file=sys.stderr)
        return 1


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"llmo {__version__}")
        return 0
    command, *rest = arguments
    if command.startswith("-"):
        raise LlmoError("option", command, ("--help", "--plugin", "--version"))
    if command in BUILT_IN:
        return _run_built_in(command, rest)
    if command not in catalog.declared("experiments"):
        catalog.load("experiments")
        if command not in catalog.KINDS["experiments"]:
            raise LlmoError("command", command, [*BUILT_IN, *catalog.KINDS["experiments"].names()])
    from llmo.command_line import call

    call(catalog.get("experiments", command), f"llmo {command}", rest)
    return 0


def _use_plugins(arguments: list[str]) -> list[str]:
    """Import the modules given by ``--plugin``; what is left of the arguments."""
    left: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, module = argument.partition("=")
        if option != "--plugin":
            left.append(argument)
            continue
        if not equals:
            module = next(remaining, "")
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        if not module or module.startswith((".", "-")):
            raise LlmoError("--plugin", module, "the name of a module, such as my_agents")
        catalog.use_plugin(module)
    return left


def _help() -> str:
    rows = {f"{name} {argument}": summary for name, (argument, summary, _) in BUILT_IN.items()}
    rows |= {name: declaration.summary for name, declaration in catalog.declared("experiments").items()}
    width = max(map(len, rows))
    return "\n".join(
        [
            "usage: llmo [--plugin MODULE] COMMAND [options]",
            "",
            "llmo learns how to train language models.",
            "",
            *(f"  {name:<{width}}  {summary}".rstrip() for name, summary in rows.items()),
            "",
            "`llmo COMMAND --help` shows the options of a command, `llmo --version` the version.",
            "`--plugin MODULE` also loads a module that registers plug-ins of your own; it can be repeated.",
        ]
    )


def _run_built_in(name: str, arguments: list[str]) -> int:
    argument, summary, function = BUILT_IN[name]
    if "-h" in arguments or "--help" in arguments:
        print(f"usage: llmo {name} {argument}\n\n{summary}")
        return 0
    for given in arguments:
        if given.startswith("-"):
            raise LlmoError("option", given, ("--help", "--plugin"))
    if len(arguments) > 1 or not arguments and not argument.startswith("["):
        raise LlmoError(f"arguments of {name}", " ".join(arguments), f"one {argument}")
    return function(*arguments)


def _list(kind: str | None = None) -> int:
    if kind is not None and kind not in LISTED:
        raise LlmoError("kind", kind, LISTED)
    rows: list[tuple[str, str, str]] = []
    for key in catalog.KINDS if kind is None else {kind} - {"features"}:
        catalog.load(key)
        registry = catalog.KINDS[key]
        rows += [(registry.kind, name, registry.summary(name)) for name in registry.names()]
    if kind == "features":
        from llmo.diagnostics.features import FEATURES, MORE_FEATURES

        rows = [(feature.group, feature.name, feature.meaning) for feature in (*FEATURES, *MORE_FEATURES)]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("kind", "name", "what it is")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    else:
        width = max((len(name) for _, name, _ in rows), default=0)
        for word, name, summary in rows:
            print(f"{word:<11}  {name:<{width}}  {summary}".rstrip())
    return 0


def _check(name: str) -> int:
    from llmo.evaluation.checks import check
    from llmo.evaluation.processes import one_thread

    one_thread()
    return _print(check(name))


def _replay(folder: str) -> int:
    from llmo.evaluation.processes import one_thread
    from llmo.evaluation.replay import replay

    one_thread()
    return _print(replay(folder))


def _print(lines: Sequence[str]) -> int:
    """Print lines; the exit status is 1 if one begins with FAIL."""
    for line in lines:
        print(line)
    return int(any(line.startswith("FAIL") for line in lines))


LISTED = (*catalog.KINDS, "features")
"""What `llmo list` lists: the registered names of each kind, and on request the entries of the observation."""
BUILT_IN: dict[str, tuple[str, str, Callable[..., int]]] = {
    "list": ("[KIND]", f"What is registered, one line each; KIND is one of {', '.join(LISTED)}.", _list),
    "check": ("NAME", "Check that a registered plug-in obeys its contract.", _check),
    "replay": ("DIR", "Re-execute a run's record and compare every number.", _replay),
}
"""Command: its argument, what it does, and the function."""
