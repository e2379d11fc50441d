"""The exchanges between chips in a compiled step: kind, size, count, and over which mesh axes."""

import re
from dataclasses import dataclass

import numpy as np

from zsg_jax.planning.hlo import Instruction, Module, size

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)


@dataclass(frozen=True)
class Collective:
    """One exchange of the program.

    Attributes:
        kind: one of `KINDS`.
        computation, name: where it stands.
        bytes: of the whole array on one chip: what a gather gives, what a reduction takes.
        elements: of each array it moves.
        group: chips that exchange with each other.
        axes: the mesh axes along which they lie.
        spread: whether a group reaches over chips that are not wired to each other.
        count: times a step.
        op_name: where in the model.
    """

    kind: str
    computation: str
    name: str
    bytes: int
    elements: tuple[int, ...]
    group: int
    axes: tuple[str, ...]
    spread: bool
    count: float
    op_name: str

    @property
    def wire(self) -> float:
        """Bytes that a chip sends in one of them at least."""
        share = (self.group - 1) / self.group if self.group else 0.0
        if self.kind == "all-reduce":
            return 2 * share * self.bytes
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes)
        return share * self.bytes


def collectives(
    module: Module, mesh_shape: dict[str, int], *, wired: int = 0, unknown: int = 1
) -> list[Collective]:
    """All exchanges of the program between more than one chip.

    Args:
        mesh_shape: sizes of the mesh by axis, in its order.
        wired: chips that share a fast interconnect, consecutive ones; 0: all.
        unknown: turns of a loop whose number the program does not say.
    """
    runs = module.runs(unknown)
    total = int(np.prod(list(mesh_shape.values())))
    found: list[Collective] = []
    seen: set[str] = set()
    for name, computation in module.computations.items():
        for one in computation.instructions.values():
            kind = one.opcode.removesuffix("-start")
            if kind not in KINDS or not runs[name]:
                continue
            # A TPU's fused exchange shows up in each fusion that it runs beside, under one channel.
            channel = re.search(r"channel_id=(\d+)", one.rest)
            if '"async_collective_fusion_config"' in one.rest and channel:
                if channel[1] in seen:
                    continue
                seen.add(channel[1])
            groups = replica_groups(one.rest, total)
            if max(map(len, groups)) < 2:
                continue
            # The fusion that keeps only this chip's part of a sum.
            scatters = kind == "all-reduce" and "all-reduce-scatter" in name
            found.append(
                Collective(
                    kind="reduce-scatter" if scatters else kind,
                    computation=name,
                    name=one.name,
                    bytes=sum(_sizes(one, kind, groups)),
                    elements=_elements(one, kind, groups),
                    group=max(map(len, groups)),
                    axes=_axes(groups, mesh_shape),
                    spread=bool(wired) and any(len({i // wired for i in g}) > 1 for g in groups),
                    count=runs[name],
                    op_name=one.op_name,
                )
            )
    return found


def replica_groups(rest: str, total: int) -> list[list[int]]:
    """The groups of chips that exchange, numbered as the mesh lists them.

    Args:
        rest: an instruction's attributes.
        total: chips of the program; no groups given means all of them.
    """
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest):
        return [[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])] or [[0]]
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", rest):
        return _named_groups(mesh[1], mesh[2], mesh[3])
    if short := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", rest):
        return _iota(short[1]).tolist()
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)+)\}", rest):
        groups = re.findall(r"\{([\d,]*)\}", listed[1])
        return [[int(i) for i in group.split(",") if i] for group in groups]
    return [list(range(total))]


def _iota(text: str) -> np.ndarray:
    """`[4,2]<=[2,4]T(1,0)`: numbers counted up in one shape, turned, and laid in another."""
    shape, _, source = text.partition("<=")
    source, _, turned = source.partition("T")
    numbers = np.arange(np.prod(_numbers(source))).reshape(_numbers(source))
    if turned:
        numbers = numbers.transpose(_numbers(turned))
    return numbers.reshape(_numbers(shape))


def _named_groups(sides: str, between: str, axes: str) -> list[list[int]]:
    """`mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}`: groups along the compiler's mesh."""
    sizes = {name: int(number) for name, number in re.findall(r"'(\w+)'=(\d+)", sides)}
    ids = np.arange(np.prod(list(sizes.values())))
    if order := re.search(r"device_ids=\((\[[\d,]+\](?:T\([\d,]+\))?)\)", between):
        source, _, turned = order[1].partition("T")
        ids = ids.reshape(_numbers(source))
        ids = ids.transpose(_numbers(turned)) if turned else ids
    # 'a':(2)4 is a part of the axis: its 4 places behind a factor of 2.
    wanted = {
        name: (int(before or 1), int(part or sizes[name]))
        for name, before, part in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes)
    }
    shape: list[int] = []
    along: list[int] = []
    for name, number in sizes.items():
        before, part = wanted.get(name, (number, 1))
        along += [len(shape) + 1]
        shape += [before, part, number // (before * part)]
    others = [place for place in range(len(shape)) if place not in along]
    width = int(np.prod([shape[place] for place in along]))
    return ids.reshape(shape).transpose([*others, *along]).reshape(-1, width).tolist()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _axes(groups: list[list[int]], mesh_shape: dict[str, int]) -> tuple[str, ...]:
    """The axes on which the members of a group differ."""
    places = [np.unravel_index(group, tuple(mesh_shape.values())) for group in groups]
    return tuple(
        axis
        for number, axis in enumerate(mesh_shape)
        if any(len(set(place[number].tolist())) > 1 for place in places)
    )


def _parts(one: Instruction) -> list[tuple[str, tuple[int, ...]]]:
    """The arrays that an exchange gives; of a -start also come its operands and context."""
    shapes = list(one.shapes)
    if one.opcode.endswith("-start") and len(shapes) > 1:
        real = len(one.operands)
        if one.opcode.startswith("all-reduce"):
            return shapes[:real]
        # (operands…, results…, context…)
        return shapes[real : 2 * real]
    return shapes


def _factor(kind: str, groups: list[list[int]]) -> int:
    # A reduce-scatter's result is one chip's part of what it takes.
    return max(map(len, groups)) if kind == "reduce-scatter" else 1


def _sizes(one: Instruction, kind: str, groups: list[list[int]]) -> list[int]:
    return [size(part) * _factor(kind, groups) for part in _parts(one)]


def _elements(one: Instruction, kind: str, groups: list[list[int]]) -> tuple[int, ...]:
    return tuple(
        int(np.prod(dims, dtype=np.int64)) * _factor(kind, groups) for _, dims in _parts(one)
    )
