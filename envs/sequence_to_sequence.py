"""Sequence to sequence: from a function's code to the first line of its docstring, by T5s and by decoders alone.

See `llmo/mdp/labelled_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.mdp.labelled_instances import labelled_spec
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


@environments.register("llmo/SequenceToSequence-v0")
def sequence_to_sequence() -> EnvSpec:
    """Learn the summary line of a function."""
    return labelled_spec("llmo/SequenceToSequence-v0", "seq2seq")
