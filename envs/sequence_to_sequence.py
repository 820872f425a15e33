"""Sequence to sequence: from a function's code to the first line of its docstring, by T5s and by decoders alone.

See `llmo/mdp/labelled_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.mdp.labelled_instances import LabelledFamily
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments

FAMILY = LabelledFamily(
    env="llmo/SequenceToSequence-v0",
    examples="summaries",
    task="seq2seq",
    roles=("source", "target"),
    domain="docstrings",
    bases=("prose", "code"),
    context=88,
    scale=2,
    families=("llama", "t5"),
    stream=5,
)


@environments.register("llmo/SequenceToSequence-v0")
def sequence_to_sequence() -> EnvSpec:
    """Learn the summary line of a function."""
    return FAMILY.spec()
