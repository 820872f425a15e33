"""Turns a typed function into a command: its arguments from the command line and YAML files, checked by their types."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from llmo.errors import LlmoError


class _Parser(ArgumentParser):
    """A parser whose errors are one line and have the nearest option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if match := re.match(r"unrecognized arguments: (-[^\s=]+)", message):
            raise LlmoError(f"option of {self.prog}", match[1], self.options()) from ex
        if match := re.search(r"Option '(.+)' is not accepted", message):
            names = [option.removeprefix("--") for option in self.options()]
            raise LlmoError(f"setting of {self.prog}", match[1], names) from ex
        if match := re.match(r'Parser key "(.+?)":\s+Expected an? (.+)\. Got value: (.*)$', message, re.DOTALL):
            kind: str | list[str] = re.sub(r"<class '(\w+)'>", r"\1", match[2])
            if literal := re.fullmatch(r"typing\.Literal\[(.+)\]", match[2]):
                kind = [name.strip("' ") for name in literal[1].split(",")]
            raise LlmoError(f"{match[1]} of {self.prog}", match[3], kind) from ex
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")
        raise AssertionError("exit does not return")

    def options(self) -> list[str]:
        """Every long option, such as ``"--steps"``."""
        return [text for action in self._actions for text in action.option_strings if re.fullmatch(r"--\w+", text)]


def call(function: Callable[..., object], program: str, arguments: Sequence[str]) -> None:
    """Call a function with arguments from a command line.

    Parameters without a default are positional, the others options; a first argument that is no option is the first
    parameter, if that is a string. All may stand in a YAML file given by
    ``--config``, over which the command line wins; ``--print_config`` prints what the function would get.

    Args:
        function: Typed, with a docstring that describes its parameters.
        program: The words that begin the command line, for messages.
        arguments: What follows them.

    Raises:
        LlmoError: An option is unknown or a value has the wrong type.
    """
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parser = _Parser(prog=program, description=summary, allow_abbrev=False)
    parser.add_argument(
        "--config", action="config", metavar="FILE.yaml", help="Settings; the command line wins over them."
    )
    parser.add_function_arguments(function, as_positional=True)
    parameters, types = inspect.signature(function).parameters, typing.get_type_hints(function)
    first = next(iter(parameters.values()), None)
    optional = first is not None and first.default is not first.empty and types[first.name] is str
    if optional and arguments and not arguments[0].startswith("-"):
        arguments = [f"--{next(iter(parameters))}={arguments[0]}", *arguments[1:]]
    values = parser.instantiate(parser.parse_args(_familiar(arguments, types)))
    function(**{name: values[name] for name in parameters})


def _familiar(arguments: Sequence[str], types: dict[str, Any]) -> list[str]:
    """Add to jsonargparse's notation ``--flag`` for true and ``--list a,b`` for ``--list=[a,b]``; files come first."""
    files: list[str] = []
    others: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        option, equals, value = argument.partition("=")
        kind = types.get(option.removeprefix("--")) if option.startswith("--") else None
        follows = bool(remaining) and not remaining[0].startswith("--")
        if kind is bool and not equals and not (follows and remaining[0] in ("true", "false")):
            argument = f"{option}=true"
        elif _is_list(kind) and (equals or follows):
            value = value if equals else remaining.pop(0)
            argument = f"{option}={value if value.startswith('[') else f'[{value}]'}"
        elif option == "--config" and (equals or follows):
            files.append(argument if equals else f"{argument}={remaining.pop(0)}")
            continue
        others.append(argument)
    return files + others


def _is_list(kind: Any) -> bool:
    return any(typing.get_origin(part) in (list, tuple) for part in (kind, *typing.get_args(kind)))
