"""The exception for a value that llmo cannot use, and the one for a process that it has lost."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.util import find_spec


class WorkerError(RuntimeError):
    """A worker process has ended before its work was done, as when the system is out of memory.

    Commands print ``str(error)`` as their one line and exit with status 1.
    """


class LlmoError(ValueError):
    """A value that is not usable, what would be, and the nearest name.

    Commands print ``str(error)`` as their one line and exit with status 2.

    Args:
        what: What the value was meant to be, such as ``"agent"``.
        value: The value that was given.
        allowed: What is allowed: a description, or the allowed names.

    Attributes:
        what: As given.
        value: As given.
        allowed: As given; names become a tuple.
        nearest: The allowed name closest to ``value``, or None.
    """

    def __init__(self, what: str, value: object, allowed: str | Iterable[str]) -> None:
        self.what = what
        self.value = value
        self.nearest: str | None = None
        if isinstance(allowed, str):
            self.allowed: str | tuple[str, ...] = allowed
            text = allowed
        else:
            self.allowed = tuple(allowed)
            text = "one of " + ", ".join(self.allowed) if self.allowed else "none is registered"
            close = difflib.get_close_matches(str(value), self.allowed, n=1, cutoff=0.5)
            self.nearest = close[0] if close else None
        message = f"{what} {value!r} is not usable: allowed is {text}"
        if self.nearest is not None:
            message += f"; did you mean {self.nearest!r}?"
        super().__init__(message)

    def __reduce__(self) -> tuple[type[LlmoError], tuple[str, object, str | tuple[str, ...]]]:
        return type(self), (self.what, self.value, self.allowed)


def needs_extra(what: str, package: str, extra: str) -> None:
    """Check that a package is installed which not everybody needs.

    Args:
        what: What needs it.
        package: Its name, as it is imported.
        extra: Of this package, which brings it.

    Raises:
        LlmoError: It is not installed.
    """
    if find_spec(package) is None:
        raise LlmoError(what, f"without {package}", f"with it: pip install 'llmo[{extra}]'")


def at_least(least: float, **values: float) -> None:
    """Check that numbers are not too small.

    Args:
        least: What each must be, or more.
        **values: The numbers by name.

    Raises:
        LlmoError: One is smaller.
    """
    for name, value in values.items():
        if value < least:
            raise LlmoError(name, value, f"at least {least:g}")
