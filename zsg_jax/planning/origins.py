"""Where a value of a compiled program comes from: the arguments that it is a copy of."""

import re
from collections import defaultdict

from zsg_jax.planning.hlo import Instruction, Module

# What gives an array on without computing a new one; a change of dtype is none.
_MOVES = {
    *("convert", "copy", "bitcast", "bitcast-convert", "reshape", "transpose", "slice", "pad"),
    *("dynamic-slice", "all-gather", "all-gather-start", "all-gather-done", "copy-start"),
    *("copy-done", "broadcast", "reduce-precision", "custom-call", "optimization-barrier"),
    *("slice-start", "slice-done", "collective-permute", "collective-permute-start"),
    "collective-permute-done",
}


class Origins:
    """Follows values of `module` back to its arguments."""

    def __init__(self, module: Module) -> None:
        """Notes who runs each computation."""
        self._module = module
        self._callers: dict[str, list[tuple[str, Instruction, str]]] = defaultdict(list)
        for name, computation in module.computations.items():
            for one in computation.instructions.values():
                for how, callee in one.calls:
                    self._callers[callee].append((name, one, how))

    def of(self, computation: str, name: str) -> frozenset[str]:
        """Paths such as "state/params/embed/embedding" of the arguments that a value copies.

        Empty if anything was computed on the way.
        """
        found: set[str] = set()
        seen: set[tuple[str, str, tuple[int, ...]]] = set()
        stack: list[tuple[str, str, tuple[int, ...]]] = [(computation, name, ())]
        while stack:
            place = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            where, what, path = place
            one = self._module.computations[where].instructions.get(what)
            if one is None:
                return frozenset()
            before = self._before(where, one, path)
            if before is None:
                return frozenset()
            if one.opcode == "parameter" and where == self._module.entry:
                found.add(argument_path(one.op_name))
            stack += before
        return frozenset(found)

    def _before(
        self, where: str, one: Instruction, path: tuple[int, ...]
    ) -> list[tuple[str, str, tuple[int, ...]]] | None:
        """The values that `one` copies, None if it computes."""
        if one.opcode == "parameter":
            if where == self._module.entry:
                return []
            number = int(one.inside) if one.inside.isdigit() else 0
            return [
                (caller, run.operands[0 if how in ("body", "condition") else number], path)
                for caller, run, how in self._callers[where]
                if how != "branch"
            ]
        if one.opcode == "get-tuple-element":
            index = re.search(r"index=(\d+)", one.rest)
            return [(where, one.operands[0], (int(index[1]) if index else 0, *path))]
        if one.opcode == "tuple":
            if not path:
                return None
            return [(where, one.operands[path[0]], path[1:])]
        if one.opcode == "while":
            return [(where, one.operands[0], path)]
        if one.opcode in ("fusion", "call"):
            inner = next((name for how, name in one.calls if how in ("calls", "to_apply")), None)
            computation = self._module.computations.get(inner or "")
            return (
                None if computation is None else [(computation.name, computation.root.name, path)]
            )
        if one.opcode in _MOVES and one.operands:
            kept = path if one.opcode == "optimization-barrier" else ()
            return [(where, one.operands[0], kept)]
        return None


def argument_path(op_name: str) -> str:
    """`state['params']['embed']['embedding']` as `state/params/embed/embedding`."""
    head = op_name.partition("[")[0].partition(".")[0]
    parts = re.findall(r"\['?([^'\]]+)'?\]|\.(\w+)", op_name)
    return "/".join([head, *(a or b for a, b in parts)])
