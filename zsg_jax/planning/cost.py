"""The arithmetic and the memory traffic of a step, loops counted as often as they turn."""

import math
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from zsg_jax.models.families import ModelConfig
from zsg_jax.planning.hlo import Computation, Instruction, Module, size
from zsg_jax.training import flops
from zsg_jax.training.sharding import path_name

# What names or regroups arrays without moving them, or is counted where it is run.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "optimization-barrier", "async-start"),
}
_BEGUN = ("copy-start", "collective-permute-start")
# How a TPU's program ends an exchange that went on beside other fusions.
_ENDED = 'custom_call_target="AsyncCollectiveDone"'
_EXCHANGED = '"async_collective_fusion_config"'
_SLICES = ("dynamic-slice", "slice", "gather")


def matmul_flops(jaxpr: Any, unknown: int = 1) -> float:
    """Multiplications and additions of all matrix products that a traced function computes.

    What rematerialization computes again counts again. Of a Pallas kernel, its author's estimate
    counts, or each program of its grid.

    Args:
        jaxpr: of all devices together.
        unknown: turns of a loop whose number is a value.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inner = math.prod(left[dimension] for dimension in contracted)
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * inner
        elif name == "pallas_call" and given.get("cost_estimate") is not None:
            total += given["cost_estimate"].flops
        elif name == "cond":
            total += max(matmul_flops(_open(branch), unknown) for branch in given["branches"])
        else:
            inside = sum(matmul_flops(one, unknown) for one in jaxprs_in_params(given))
            total += inside * _times(name, given, unknown)
    return total


def model_flops(
    model: ModelConfig, params: Any, rows: int, length: int, frozen: Any = None
) -> float:
    """What a step must compute: 6 a weight and token, and causal attention counted once.

    Forward, a token takes 2 a weight of the matrices (the input's embedding is looked up, not
    multiplied) and 4 a layer, key it sees and width of the heads; backward twice that
    (arXiv 2204.02311, appendix B, with the keys of a causal mask only). Nothing is computed again.

    Args:
        params: shapes of the parameters that are trained.
        frozen: those of others, if any; a token takes 4 a weight of these, which have no gradient.
        rows, length: full rows of the batch.
    """
    trained, others = _sizes(params), _sizes(frozen or {})
    tied = not any(name.startswith("lm_head/") for name in [*trained, *others])
    weights = 6 * _multiplied(trained, tied) + 4 * _multiplied(others, tied)
    return float(weights * rows * length + 3 * rows * flops.attention(model, [length]))


def memory_traffic(module: Module, unknown: int = 1) -> float:
    """Bytes that one chip reads from and writes to its memory in a step, by the program's text.

    Every instruction reads its operands and writes its result once, what is fused touches only
    what enters and leaves the fusion, a slice only the part it takes, an update in place only the
    part it writes. What the compiler keeps inside the processor is free.
    """
    runs = module.runs(unknown)
    fused = {
        callee
        for computation in module.computations.values()
        for one in computation.instructions.values()
        if one.opcode != "call" and not one.opcode.startswith("async")
        for how, callee in one.calls
        if how in ("calls", "to_apply")
    }
    return sum(
        runs[name] * _touched(one, computation, module)
        for name, computation in module.computations.items()
        if name not in fused and runs[name]
        for one in computation.instructions.values()
    )


def _times(name: str, given: dict[str, Any], unknown: int) -> int:
    if name == "scan":
        return int(given["length"])
    if name == "while":
        return unknown
    if name == "pallas_call":
        return math.prod(side for side in given["grid_mapping"].grid if isinstance(side, int))
    if name == "shard_map":
        return int(given["mesh"].size)  # its shapes are those of one device
    return 1


def _sizes(params: Any) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): math.prod(leaf.shape) for path, leaf in leaves}


def _multiplied(sizes: dict[str, int], tied: bool) -> int:
    """Weights that a token is multiplied with: matrices, and the table that is the head too."""
    return sum(
        number
        for name, number in sizes.items()
        if name.endswith(("kernel", "lora_a", "lora_b")) or (tied and name == "embed/embedding")
    )


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _touched(one: Instruction, computation: Computation, module: Module) -> int:
    if one.opcode in _FREE or one.opcode.endswith(("-done", "-update")):
        return 0
    if one.opcode == "slice-start":
        return size(one.shapes[1]) * (1 if one.near[1] else 2)
    if one.opcode in _SLICES:
        return 2 * _far(one)
    if one.opcode == "dynamic-update-slice":
        return 2 * _far(computation.instructions[one.operands[1]])
    inner = module.computations.get(dict(one.calls).get("calls", ""))
    if one.opcode == "fusion" and inner is not None:
        if _ENDED in inner.root.rest:
            return 0  # the fusion that began the exchange has written what it gives
        read = sum(
            _read(computation.instructions[name], number, inner)
            for number, name in enumerate(one.operands)
            if name in computation.instructions
        )
        return read + _written(one, inner)
    read = sum(
        _far(computation.instructions[name])
        for name in one.operands
        if name in computation.instructions
    )
    # What is only begun gives its place, its source and signs.
    return read + (_far(one, 0) if one.opcode in _BEGUN else _far(one))


def _far(one: Instruction, part: int | None = None) -> int:
    parts = list(zip(one.shapes, one.near, strict=True))
    return sum(size(shape) for shape, near in (parts if part is None else parts[:1]) if not near)


def _read(operand: Instruction, number: int, inner: Computation) -> int:
    """What a fusion reads of its operand."""
    whole = _far(operand)
    names = {
        one.name
        for one in inner.instructions.values()
        if one.opcode == "parameter" and one.inside == str(number)
    }
    taken = 0
    for one in inner.instructions.values():
        if not names & set(one.operands):
            continue
        if one.opcode == "bitcast":
            names.add(one.name)
        elif one.root and one.opcode == "tuple":
            continue  # handed on
        elif _EXCHANGED in one.rest:
            continue  # goes on beside this fusion, and is counted where it began
        elif one.opcode in _SLICES and one.operands[0] in names:
            taken += sum(map(size, one.shapes))
        elif one.opcode != "dynamic-update-slice" or one.operands[0] not in names:
            return whole
    return min(whole, taken)


def _written(fusion: Instruction, inner: Computation) -> int:
    """What a fusion writes, in place where its root updates an operand."""
    root = inner.root
    parts = [inner.instructions[n] for n in root.operands] if root.opcode == "tuple" else [root]
    if len(parts) != len(fusion.shapes):
        return _far(fusion)
    total = 0
    for part, shape, near in zip(parts, fusion.shapes, fusion.near, strict=True):
        while part.opcode == "bitcast":
            part = inner.instructions[part.operands[0]]
        if part.opcode == "parameter" or _EXCHANGED in part.rest:
            continue
        if part.opcode == "dynamic-update-slice":
            total += sum(map(size, inner.instructions[part.operands[1]].shapes))
        elif not near:
            total += size(shape)
    return total
