"""Reads a compiled program's text (HLO): its computations, and how often each is run."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

Shape = tuple[str, tuple[int, ...]]

_HEADER = re.compile(r"^(ENTRY )?%?([\w.$-]+) \(.*\) -> .*\{$")
_END = re.compile(r"^\}(, execution_thread=.*)?$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.$-]+) = ")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.$-]+)")
_CALLS = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.$-]+)"
)
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BITS = re.compile(r"(?:pred|token|[a-z]+(\d+))")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        opcode: such as "all-gather".
        shapes: of its result, a tuple's parts in order.
        near: whether each part lies in memory inside the processor, as a TPU's VMEM.
        operands: names of instructions of the same computation.
        inside: what stands in the operands' brackets.
        rest: what stands behind them.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    near: tuple[bool, ...]
    operands: tuple[str, ...]
    inside: str
    rest: str
    root: bool

    @property
    def op_name(self) -> str:
        """Where in the model it comes from, as JAX named it, or ""."""
        found = _OP_NAME.search(self.rest)
        return found[1].replace("\\'", "'").replace('\\"', '"') if found else ""

    @property
    def calls(self) -> list[tuple[str, str]]:
        """(how, name) of the computations it runs."""
        if self.opcode.endswith(("-done", "-update")):
            return []  # the -start ran it
        found = [(how, name) for how, name in _CALLS.findall(self.rest)]
        for names in _BRANCHES.findall(self.rest):
            found += [("branch", name.strip().lstrip("%")) for name in names.split(",")]
        return found


@dataclass
class Computation:
    """A named list of instructions in the order of their execution."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The one whose value is the computation's."""
        return next((one for one in self.instructions.values() if one.root), self._last())

    def _last(self) -> Instruction:
        return list(self.instructions.values())[-1]


@dataclass
class Module:
    """A compiled program, of one device."""

    entry: str
    computations: dict[str, Computation]

    def runs(self, unknown: int = 1) -> dict[str, float]:
        """How often a step runs each computation.

        Args:
            unknown: turns of a loop whose number the program does not say.
        """
        counts = dict.fromkeys(self.computations, 0.0)
        counts[self.entry] = 1.0
        for name in self._callers_first():
            for one in self.computations[name].instructions.values():
                for how, callee in one.calls:
                    if callee not in counts:
                        continue
                    turns = 1
                    if how in ("body", "condition"):
                        turns = trips(one, self) or unknown
                    counts[callee] += counts[name] * turns
        return counts

    def _callers_first(self) -> list[str]:
        order: list[str] = []
        seen = {self.entry}
        stack: list[tuple[str, Iterator[str]]] = [(self.entry, self._callees(self.entry))]
        while stack:
            name, rest = stack[-1]
            for callee in rest:
                if callee in self.computations and callee not in seen:
                    seen.add(callee)
                    stack.append((callee, self._callees(callee)))
                    break
            else:
                order.append(name)
                stack.pop()
        return order[::-1]

    def _callees(self, name: str) -> Iterator[str]:
        return (
            callee
            for one in self.computations[name].instructions.values()
            for _, callee in one.calls
        )


def parse(text: str) -> Module:
    """The module that `jax.stages.Compiled.as_text` shows.

    Raises:
        ValueError: if it holds no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _whole_lines(text):
        if _END.match(line):
            current = None
        elif current is not None:
            if one := _instruction(line):
                current.instructions[one.name] = one
        elif header := _HEADER.match(line):
            current = computations[header[2]] = Computation(header[2])
            entry = header[2] if header[1] else entry
    if not entry:
        raise ValueError("the program's text has no ENTRY computation")
    return Module(entry, computations)


def _whole_lines(text: str) -> Iterator[str]:
    """The lines, one an instruction: of a Pallas kernel the attributes have line breaks."""
    held = ""  # an instruction that may go on
    for line in text.splitlines():
        instruction = _LINE.match(line)
        if held and not (instruction or _END.match(line)):
            held += line
            continue
        if held:
            yield held
        held = line if instruction else ""
        if not held:
            yield line


def trips(loop: Instruction, module: Module) -> int | None:
    """Turns of a `while`, as the compiler noted or its condition says; None: only running tells."""
    if found := _TRIPS.search(loop.rest):
        return int(found[1])
    condition = module.computations.get(dict(loop.calls).get("condition", ""))
    if condition is None:
        return None
    test = condition.root
    # A loop from 0, as JAX's scan makes it and as TPU's compiler splits a product into steps.
    if test.opcode == "compare" and "direction=LT" in test.rest and len(test.operands) == 2:
        bound = condition.instructions.get(test.operands[1])
        if bound is not None and bound.opcode == "constant" and bound.inside.isdigit():
            return -(-int(bound.inside) // _stride(loop, condition, test, module))
    return None


def _stride(loop: Instruction, condition: Computation, test: Instruction, module: Module) -> int:
    """What a turn adds to the number that the condition tests: 1 where that is not plain."""
    body = module.computations.get(dict(loop.calls).get("body", ""))
    counter = condition.instructions.get(test.operands[0])
    place = re.search(r"index=(\d+)", counter.rest) if counter is not None else None
    if body is None or place is None or int(place[1]) >= len(body.root.operands):
        return 1
    added = body.instructions.get(body.root.operands[int(place[1])])
    if added is None or added.opcode != "add":
        return 1
    numbers = [body.instructions[name] for name in added.operands if name in body.instructions]
    return next((int(n.inside) for n in numbers if n.opcode == "constant" and n.inside != "0"), 1)


def size(shape: Shape) -> int:
    """Bytes of an array, or of a token 0."""
    kind, dims = shape
    bits = _BITS.fullmatch(kind)
    width = 8 if kind == "pred" else int(bits[1]) if bits and bits[1] else _odd_width(kind)
    return math.prod(dims) * width // 8


def _odd_width(kind: str) -> int:
    # f8e4m3fn, f4e2m1fn and their like.
    found = re.match(r"[a-z]+(\d+)", kind)
    return int(found[1]) if found and kind != "token" else 0


def _instruction(line: str) -> Instruction | None:
    start = _LINE.match(line)
    if start is None:
        return None
    at = start.end()
    end = _closing(line, at) + 1 if line[at] == "(" else line.find(" ", at)
    opening = line.find("(", end)
    if end <= 0 or opening < 0:
        return None
    closing = _closing(line, opening)
    inside = line[opening + 1 : closing]
    # Layouts such as {1,0:T(8,128)} hold no square brackets, so every pair of them is a shape.
    found = _SHAPE.findall(line[at:end])
    shapes = tuple(
        (kind, tuple(int(side.lstrip("<=")) for side in dims.split(",") if side))
        for kind, dims, _ in found
    )
    return Instruction(
        name=start[2],
        opcode=line[end:opening].strip(),
        shapes=shapes,
        near=tuple("S(" in layout for _, _, layout in found),
        operands=tuple(_NAME.findall(inside)),
        inside=inside,
        rest=line[closing + 1 :],
        root=bool(start[1]),
    )


def _closing(line: str, opening: int) -> int:
    """Where the bracket at `opening` is closed; the line's end if nowhere."""
    depth = 0
    for place in range(opening, len(line)):
        if line[place] == "(":
            depth += 1
        elif line[place] == ")":
            depth -= 1
            if depth == 0:
                return place
    return len(line)
