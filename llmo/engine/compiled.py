"""A population's program through `torch.compile`: one graph for any number of rows.

`vmap` cannot be traced with a symbolic number of rows, so the program is traced with two and with three; every constant
that differs between the two traces is a multiple of the number of rows, and becomes one. Dropout masks and soft targets
are always inputs, ones and zeros where there are none, so that a model needs one graph and not four.
"""

from __future__ import annotations

import operator
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from llmo.engine.dropout import blocks
from llmo.engine.executors import Batch
from llmo.engine.lora import BatchedLora
from llmo.engine.vmapped import Vmapped
from llmo.errors import LlmoError

LANES = 8
"""Rows side by side: enough to hide what a call costs, few enough for the cache (`llmo throughput`)."""
TOLERANCE = 1e-4
"""Largest relative difference of the first pass from the program that is not compiled."""
_TRACED = 2, 3

Program = Callable[..., tuple[Tensor, ...]]
_GRAPHS: dict[tuple[Any, ...], Program] = {}
"""What has been compiled in this process, by the program's identity, its device and its shapes."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which `torch.compile` needs on a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


class Compiled:
    """A program of many rows, compiled when it is first used.

    Args:
        program: What is compiled.

    Attributes:
        seconds: What compiling has taken so far.

    Raises:
        LlmoError: There is no C++ compiler; `torch.compile` needs one on a CPU.
    """

    lanes: int | None = LANES

    def __init__(self, program: Vmapped | BatchedLora) -> None:
        if not has_compiler():
            raise LlmoError("executor", "compiled", "batched or single, which need no C++ compiler; or g++ on the path")
        self.program, self.layout = program, program.layout
        self.seconds = 0.0
        self._constants: dict[tuple[float, tuple[int, ...]], Tensor] = {}

    @torch.no_grad()
    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`; what is rare is not compiled: it would take a graph of its own."""
        if batch.added is not None or batch.temperature is not None or batch.read is not None:
            return self.program.gradient(rows, batch)
        n, sequences, tokens = batch.inputs.shape
        interface, positions = self.program.interface, batch.positions
        masks, teacher, share = batch.masks, batch.teacher, batch.share
        if masks is None:
            model, seen = self.program.model, interface.hidden_tokens(tokens, positions)
            masks = self._constant(1.0, n, len(blocks(model)), sequences, seen, model.config.hidden_size)
        if teacher is None or share is None:
            teacher = self._constant(0.0, n, sequences, positions, interface.outputs)
            share = self._constant(0.0, n)
        scale = () if batch.scale is None else (batch.scale,)

        def train(rows: Tensor, inputs: Tensor, labels: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            masks, teacher, share, *scale = rest
            scaled = scale[0] if scale else None
            made = Batch(inputs, labels, batch.loss, masks, teacher, share, scale=scaled)
            return self.program.gradient(rows, made)

        key = batch.loss, sequences, tokens, positions, len(scale)
        losses, gradient = self._run(key, train, rows, batch.inputs, batch.labels, masks, teacher, share, *scale)
        return losses, gradient

    def input_gradient(self, rows: Tensor, batch: Batch) -> Tensor:
        """See `Executor.input_gradient`."""
        return self.program.input_gradient(rows, batch)

    @torch.no_grad()
    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """See `Executor.logits`."""

        def score(rows: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
            return (self.program.logits(rows, inputs, positions),)

        return self._run((*inputs.shape[1:], positions), score, rows, inputs)[0]

    def _constant(self, value: float, n: int, *shape: int) -> Tensor:
        known = self._constants.get((value, shape))
        if known is None or len(known) < n:
            known = torch.full((max(n, LANES), *shape), value, device=next(self.program.model.parameters()).device)
            self._constants[value, shape] = known
        return known[:n]

    def _run(self, key: tuple[Any, ...], function: Program, *arguments: Tensor) -> tuple[Tensor, ...]:
        arguments = tuple(argument.contiguous() for argument in arguments)
        if len(arguments[0]) == 1:
            # One row would get kernels of its own, which may round differently.
            alone = self._run(key, function, *(argument.expand(2, *argument.shape[1:]) for argument in arguments))
            return tuple(result[:1] for result in alone)
        key = (*self.program.identity, arguments[0].device, *key)
        if key not in _GRAPHS:
            _GRAPHS[key] = self._compile(function, arguments)
        return _GRAPHS[key](*arguments)

    def _compile(self, function: Program, arguments: tuple[Tensor, ...]) -> Program:
        started = time.perf_counter()
        expected = function(*arguments)
        traces = []
        for n in _TRACED:
            places = torch.arange(n) % len(arguments[0])
            examples = [argument[places] for argument in arguments]
            traces.append(make_fx(function)(*examples))
        for example in examples:
            torch._dynamo.mark_dynamic(example, 0)
        graph = any_number_of_rows(*traces)
        transpose_factors(graph)
        # A graph is looked up by its shapes, so the guards, which cost as much as a kernel, have nothing to guard.
        compiled: Program = torch.compile(graph, options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe})
        compiled(*examples)
        self.seconds += time.perf_counter() - started
        for found, right in zip(compiled(*arguments), expected, strict=True):
            error = (torch.linalg.vector_norm(found - right) / torch.linalg.vector_norm(right)).item()
            if not error <= TOLERANCE and right.isfinite().all():
                raise LlmoError("error of the compiled program", error, f"at most {TOLERANCE}; use executor='batched'")
        return compiled


def any_number_of_rows(first: GraphModule, second: GraphModule) -> GraphModule:
    """One graph from the traces of a program with two and with three rows.

    Raises:
        LlmoError: The traces differ in more than multiples of the number of rows.
    """
    a, b = _TRACED
    for graph in (first.graph, second.graph):
        graph.eliminate_dead_code()
    nodes, others = list(first.graph.nodes), list(second.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    with first.graph.inserting_after(inputs[-1]):
        rows = first.graph.call_function(torch.ops.aten.sym_size.int, (inputs[0], 0))
    multiples: dict[int, Node] = {1: rows}

    def multiple(times: int) -> Node:
        if times not in multiples:
            with first.graph.inserting_after(rows):
                multiples[times] = first.graph.call_function(operator.mul, (rows, times))
        return multiples[times]

    def merged(x: Any, y: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(merged(p, q) for p, q in zip(x, y, strict=True))
        if isinstance(x, int) and not isinstance(x, bool) and x != y:
            if x % a or y != x // a * b:
                raise LlmoError("size in a traced program", (x, y), f"a multiple of the number of rows, {a} and {b}")
            return multiple(x // a)
        return x

    if [node.target for node in nodes if node.op != "get_attr"] != [n.target for n in others if n.op != "get_attr"]:
        raise LlmoError("traced program", "other operations with another number of rows", "the same ones")
    for node, other in zip(nodes, others, strict=True):
        node.args = merged(node.args, other.args)
    first.graph.lint()
    first.recompile()
    return first


def transpose_factors(module: GraphModule) -> None:
    """Write (A B)^T as B^T A^T: the gradient of a weight then comes out of its product in the layout of the weight."""
    transpose = torch.ops.aten.transpose.int
    for node in module.graph.find_nodes(op="call_function", target=transpose):
        product = node.args[0]
        while product.target is torch.ops.aten.view.default and len(product.args[1]) == 3 and len(product.users) == 1:
            product = product.args[0]
        if node.args[1:] != (1, 2) or product.target is not torch.ops.aten.bmm.default or len(product.users) != 1:
            continue
        with module.graph.inserting_before(node):
            flipped = [module.graph.call_function(transpose, (factor, 1, 2)) for factor in reversed(product.args)]
            node.replace_all_uses_with(module.graph.call_function(torch.ops.aten.bmm.default, tuple(flipped)))
    module.graph.eliminate_dead_code()
    module.recompile()
