"""What a check found: lines that begin with ``ok`` or ``FAIL``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Broken(Exception):
    """A contract is broken; the message says how."""


class Findings:
    """Collects one line for each thing that was checked.

    Attributes:
        lines: ``ok   WHAT`` or ``FAIL WHAT: WHY``, in the order of checking.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def that(self, what: str) -> Iterator[None]:
        """Check one thing in a with-block: whatever is raised in it becomes the reason why it fails."""
        try:
            yield
        except Exception as error:
            kind = "" if isinstance(error, Broken) else f"{type(error).__name__}: "
            self.lines.append(f"FAIL {what}: {' '.join(f'{kind}{error}'.split())}")
        else:
            self.lines.append(f"ok   {what}")


def require(holds: object, otherwise: str) -> None:
    """Raise `Broken` with the reason, unless something holds."""
    if not holds:
        raise Broken(otherwise)


def require_same(difference: str) -> None:
    """Raise `Broken` with a difference that `compare.difference` found."""
    if difference:
        raise Broken(difference)
