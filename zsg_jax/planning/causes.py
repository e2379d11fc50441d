"""Why a step exchanges what it does: the sharding rule behind each collective."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from zsg_jax.planning.collectives import Collective
from zsg_jax.planning.hlo import Module
from zsg_jax.planning.origins import Origins
from zsg_jax.training import sharding

UNEXPLAINED = "unexplained"
# Axes over which the rows of a batch are split, so that whole gradients are sums over them.
_ROWS = frozenset(("data", "fsdp"))

_TILES = 1.1


@dataclass(frozen=True)
class Cause:
    """What the collectives of one kind, over the same axes and for the same reason, add up to.

    Attributes:
        rules: patterns of `sharding.RULES`; none where no rule is behind it.
        bytes: of their arrays; wire: that one chip sends; both of a step.
        examples: op_names, for what is not explained.
    """

    kind: str
    axes: tuple[str, ...]
    why: str
    rules: tuple[str, ...]
    count: float
    bytes: float
    wire: float
    examples: tuple[str, ...]


class Explainer:
    """Tells why, from the state's paths, shapes and shardings."""

    def __init__(self, module: Module, params: Any, *, rows: int, width: int, layers: int) -> None:
        """Takes shapes of the parameters, rows of a batch, and the model's width and layers."""
        self._origins, self._module = Origins(module), module
        self._rows, self._width, self._layers = rows, width, layers
        self._leaves = [
            (sharding.path_name((jax.tree_util.DictKey("params"), *path)), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        ]

    def __call__(self, one: Collective) -> tuple[str, tuple[str, ...]]:
        """Why `one` happens, and the rules that make it so."""
        told = ", ".join(one.axes)
        if one.kind == "all-gather" and (rules := self._copied(one)):
            return f"weights split over {told} are gathered where they are used", rules
        if one.kind == "collective-permute":
            # A product whose weights, or whose gradient's parts, go round while it is computed.
            if rules := self._copied(one):
                return f"weights split over {told} are passed round where they are used", rules
            product = "transpose(" in one.op_name and one.op_name.endswith("dot_general")
            rules = self._gradients(one) if product else self._ends(one)
            if rules and _ROWS.issuperset(one.axes):
                return f"gradients are summed into the parts split over {told}", rules
        if one.kind in ("all-reduce", "reduce-scatter") and _ROWS.issuperset(one.axes):
            if max(one.elements) <= max(self._rows, 16):
                return "sums over all rows: loss, tokens, the gradients' norm", ()
            if rules := self._gradients(one):
                if one.kind == "reduce-scatter" or self._split(rules, one.axes):
                    return f"gradients are summed into the parts split over {told}", rules
                return f"gradients of what is copied over {told}", rules
        if "tensor" in one.axes and set(one.axes) == {"tensor"}:
            rules = tuple(
                pattern
                for pattern, spec in sharding.RULES
                if "tensor" in jax.tree.leaves(tuple(spec))
            )
            if any(elements % self._width == 0 for elements in one.elements):
                return "activations of layers split over tensor are summed or gathered", rules
            return "sums over heads or vocabulary split over tensor", rules
        if self._from_batch(one) or max(one.elements) <= max(self._rows, 16):
            return "numbers of rows, for the metrics of every chip", ()
        if "jit(_take)" in one.op_name:
            # What looks up a table by rows, and adds up the table's gradient.
            return "the table of embeddings is split otherwise than the rows that look it up", (
                rule_of("params/embed/embedding"),
            )
        return UNEXPLAINED, ()

    def _operands(self, one: Collective) -> Sequence[str]:
        return self._module.computations[one.computation].instructions[one.name].operands

    def _copied(self, one: Collective) -> tuple[str, ...]:
        rules: set[str] = set()
        for operand in self._operands(one):
            paths = self._origins.of(one.computation, operand)
            if not paths or not all(path.startswith("state/") for path in paths):
                return ()
            rules |= {rule_of(path.removeprefix("state/")) for path in paths}
        return tuple(sorted(rules))

    def _from_batch(self, one: Collective) -> bool:
        paths = [self._origins.of(one.computation, operand) for operand in self._operands(one)]
        return all(found and all(path.startswith("batch/") for path in found) for found in paths)

    def _gradients(self, one: Collective) -> tuple[str, ...]:
        """Rules of parameters whose gradient, or a part of it, has each array's size."""
        if "transpose(" not in one.op_name and "jvp" in one.op_name:
            return ()  # the forward pass
        # A TPU's compiler may round the parts of a sum up to its tiles.
        more = _TILES if one.kind == "reduce-scatter" else 1.01
        rules: set[str] = set()
        for elements in one.elements:
            if elements <= max(self._rows, 16):
                continue  # a sum that was combined with them
            fits = {
                rule_of(path) for path, leaf in self._leaves if self._is_part(elements, leaf, more)
            }
            if not fits:
                return ()
            rules |= fits
        return tuple(sorted(rules))

    def _split(self, rules: Iterable[str], axes: tuple[str, ...]) -> bool:
        specs = dict(sharding.RULES)
        named = {axis for rule in rules for axis in jax.tree.leaves(tuple(specs[rule]))}
        return named.issuperset(axes)

    def _ends(self, one: Collective) -> tuple[str, ...]:
        """Rules of the gradient whose parts, rounded up, exchange their ends after their sum."""
        module, name = self._module, self._operands(one)[0]
        instructions = module.computations[one.computation].instructions
        while instructions[name].opcode in ("slice", "bitcast", "copy"):
            name = instructions[name].operands[0]
        callee = module.computations.get(dict(instructions[name].calls).get("calls", ""))
        if callee is None or "all-reduce-scatter" not in callee.name:
            return ()
        whole = next((i for i in callee.instructions.values() if i.opcode == "all-reduce"), None)
        if whole is None:
            return ()
        elements = math.prod(whole.shapes[0][1])
        return tuple(
            sorted(
                {rule_of(p) for p, leaf in self._leaves if self._is_part(elements, leaf, _TILES)}
            )
        )

    def _is_part(self, elements: int, leaf: Any, more: float) -> bool:
        """Whether an array is this parameter, one layer of it, or what a mesh leaves on a chip.

        So many times as large will do, for padding.
        """
        full, mesh = math.prod(leaf.shape), leaf.sharding.mesh.size
        parts = {full // n for n in range(1, mesh + 1) if mesh % n == 0 and full % n == 0}
        if len(leaf.shape) > 1 and leaf.shape[0] == self._layers:
            parts |= {part // self._layers for part in parts if part % self._layers == 0}
        return any(part <= elements <= part * more for part in parts if part)


def rule_of(path: str) -> str:
    """The pattern of `sharding.RULES` that decides about the array at `path`."""
    return next((pattern for pattern, _ in sharding.RULES if re.search(pattern, path)), path)


def explain(exchanges: Iterable[Collective], why: Explainer) -> list[Cause]:
    """Collectives by kind, axes and cause, those that send most first."""
    groups: dict[tuple[str, tuple[str, ...], str, tuple[str, ...]], list[Collective]]
    groups = defaultdict(list)
    for one in exchanges:
        groups[one.kind, one.axes, *why(one)].append(one)
    causes = [
        Cause(
            *key,
            count=sum(one.count for one in members),
            bytes=sum(one.count * one.bytes for one in members),
            wire=sum(one.count * one.wire for one in members),
            examples=tuple(sorted({one.op_name for one in members}))[:3],
        )
        for key, members in groups.items()
    ]
    return sorted(causes, key=lambda cause: -cause.wire)
