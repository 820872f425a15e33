"""What a policy has seen while it learned, so that it can be told when a run is like nothing that it knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmo.atomic import replacing, tensor_bytes, write_bytes_synced
from llmo.errors import LlmoError

FILE = "familiar.safetensors"
"""Beside a policy's own two files."""
NOISE = 0.1
"""Standard deviation that is added to every feature: what differs by less is the same."""
MARGIN = 1.5
"""How much farther off than anything met, in squares, an observation may be."""


@dataclass(frozen=True)
class Familiar:
    """A normal distribution of observations, and how far from its middle they were (Mahalanobis 1936).

    Attributes:
        mean: [F].
        precision: Inverse of the covariance, [F, F].
        limit: Square of the distance from which an observation is strange.
    """

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    limit: float

    @classmethod
    def of(cls, observations: NDArray[np.float32]) -> Familiar:
        """What some observations, [M, F], have in common."""
        values = observations.astype(np.float64)
        covariance = np.cov(values, rowvar=False) + NOISE**2 * np.eye(values.shape[1])
        precision: NDArray[np.float64] = np.linalg.inv(covariance).astype(np.float64)
        found = cls(values.mean(axis=0), precision, 0.0)
        return replace(found, limit=MARGIN * float(found.distances(observations).max()))

    def distances(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Squares of distances of observations [n, F], [n]."""
        off = observations - self.mean
        squares: NDArray[np.float64] = np.einsum("nf,fg,ng->n", off, self.precision, off)
        return squares

    def strangest(self, observation: NDArray[np.float32]) -> int:
        """The feature that an observation's, [F], distance is most due to."""
        off = observation - self.mean
        return int(np.argmax(off * (self.precision @ off)))

    def save(self, folder: Path) -> None:
        """Write it beside a policy."""
        tensors = {"mean": self.mean, "precision": self.precision, "limit": np.array([self.limit])}
        with replacing(folder / FILE) as temporary:
            write_bytes_synced(temporary, tensor_bytes(tensors))

    @classmethod
    def load(cls, folder: Path) -> Familiar | None:
        """Read what stands beside a policy; None where nothing does.

        Raises:
            LlmoError: It is no such file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        file = folder / FILE
        if not file.exists():
            return None
        try:
            tensors = load(file.read_bytes())
            return cls(tensors["mean"], tensors["precision"], float(tensors["limit"][0]))
        except (OSError, SafetensorError, KeyError, IndexError) as error:
            raise LlmoError("file", str(file), f"one that `llmo train` wrote ({error})") from error
