"""The exchanges between chips in a compiled step, by kind: how many, and how many bytes.

Read from the program's text, which the compiler does not promise to keep: what is not understood
(a loop of which it does not note how often it turns, groups written in another way) counts once, or
as one group of all chips.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

_KINDS = (
    "all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute|collective-broadcast|"
    "ragged-all-to-all"
)
_HEADER = re.compile(r"^(ENTRY )?%?([\w.$-]+) \(.*\{$", re.M)
_EXCHANGE = re.compile(rf"^\s+(?:ROOT )?%?[\w.$-]+ = (.*?) ({_KINDS})(-start)?\(([^)]*)\)(.*)$")
_CALLS = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|[%\w.$-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z]+)(\d*)[a-z0-9]*\[([\d,]*)\]")


@dataclass(frozen=True)
class Exchanges:
    """All collectives of one kind among as many chips.

    Attributes:
        kind: such as "all-gather".
        group: chips that exchange with one another.
        count: times a step.
        bytes: of the whole arrays on one chip: what a gather gives, what a reduction takes.
        sent: that a chip must send at least, round a ring.
    """

    kind: str
    group: int
    count: float
    bytes: float
    sent: float


def collectives(text: str, chips: int, unknown: int = 1) -> list[Exchanges]:
    """The exchanges of a step, those that send most first.

    Args:
        text: of a compiled program.
        chips: that it runs on.
        unknown: turns of a loop of which the program does not note how many.
    """
    headers = list(_HEADER.finditer(text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    bodies = {h[2]: text[h.end() : end] for h, end in zip(headers, ends, strict=True)}
    counts = _runs(bodies, [h[2] for h in headers if h[1]], unknown)
    found: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    fused = set()
    for name, body in bodies.items():
        for line in body.splitlines():
            exchange = _EXCHANGE.match(line)
            if exchange is None or not counts[name]:
                continue
            # A TPU's fused exchange shows up in each fusion that it runs beside, under one channel.
            if '"async_collective_fusion_config"' in line:
                channel = re.search(r"channel_id=\d+", line)
                if channel and channel[0] in fused:
                    continue
                fused.add(channel[0] if channel else line)
            shapes, kind, started, operands, rest = exchange.groups()
            group = 2 if kind == "collective-permute" else _group(rest, chips)
            if group < 2:
                continue
            size = _size(shapes, kind, len(operands.split(", ")) if started else 0)
            if kind == "reduce-scatter":
                size *= group  # its result is one chip's part of what it takes
            elif kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"  # of this fusion, a chip keeps only its part
            found[kind, group][0] += counts[name]
            found[kind, group][1] += counts[name] * size
    every = [
        Exchanges(kind, group, count, size, size * _share(kind, group))
        for (kind, group), (count, size) in found.items()
    ]
    return sorted(every, key=lambda one: -one.sent)


def _runs(bodies: dict[str, str], entries: list[str], unknown: int) -> dict[str, float]:
    """How often a step runs each computation; callees stand before their callers."""
    counts = dict.fromkeys(bodies, 0.0) | dict.fromkeys(entries, 1.0)
    for name in reversed(bodies):
        for line in bodies[name].splitlines():
            turns = 1
            if " while(" in line:
                noted = _TURNS.search(line)
                turns = int(noted[1]) if noted else unknown
            for callees in _CALLS.findall(line):
                for callee in re.findall(r"[\w.$-]+", callees):
                    if callee in counts:
                        counts[callee] += counts[name] * turns
    return counts


def _size(shapes: str, kind: str, begun: int) -> int:
    """Bytes of the arrays that an exchange gives.

    Args:
        begun: operands of one in two parts, whose result holds them first (all but an all-reduce).
    """
    arrays = _ARRAY.findall(shapes)
    if begun and kind != "all-reduce" and len(arrays) > begun:
        arrays = arrays[begun : 2 * begun]
    bits = [
        (8 if kind == "pred" else int(width or 0)) * math.prod(map(int, sides.split(",")))
        if sides
        else int(width or 0)
        for kind, width, sides in arrays
    ]
    return sum(bits) // 8


def _group(rest: str, chips: int) -> int:
    """Chips that exchange with one another, by an instruction's attributes."""
    if short := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(short[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return listed[1].count(",") + 1
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return chips


def _share(kind: str, group: int) -> float:
    if kind in ("collective-permute", "collective-broadcast"):
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (group - 1) / group
