"""A plan as text for people and as a tree for programs."""

from dataclasses import asdict
from typing import Any

from zsg_jax.planning.chips import Chip
from zsg_jax.planning.estimate import Estimate, Memory, Work, days
from zsg_jax.runtime.progress import percent

MILLION = 1_000_000
PARTS = (
    ("parameters", "parameters"),
    ("optimizer", "optimizer state"),
    ("batch", "batch"),
    ("temporaries", "activations and temporaries"),
    ("padding", "padding of layouts"),
    ("results", "metrics and results"),
    ("code", "program"),
)


def as_tree(plan: Estimate, rows: int | None, batch_size: int, advice: Any) -> dict[str, Any]:
    """All numbers of a plan, in bytes, seconds and FLOP of one chip and step.

    Args:
        rows: of an epoch; None where they are not known.
        advice: settings that fit, as flags; None where nothing was sought or found.
    """
    one, shape, trainer = plan.topology, plan.shape, plan.trainer
    memory = {name: getattr(plan.memory, name) for name, _ in PARTS}
    tree: dict[str, Any] = {
        "topology": one.name,
        "chips": one.count,
        "estimate": one.chip.kind == "gpu",
        "mesh": dict(trainer.mesh.shape),
        "rows": shape.rows,
        "length": shape.length,
        "micro_batches": shape.micro_batches,
        "parameters": trainer.parameters,
        "compile_seconds": plan.seconds,
        "memory": memory | {"total": plan.memory.total, "usable": plan.memory.usable},
        "chip_memory": one.chip.memory,
        "fits": plan.memory.fits,
        "advice": advice,
    }
    if plan.work is not None:
        work = plan.work
        tree |= {
            "model_flops": work.flops,
            "state_bytes": work.state_bytes,
            "compiler_flops_loops_once": work.compiler_flops,
            "compiler_bytes_loops_once": work.compiler_bytes,
            "collectives": [asdict(exchanges) for exchanges in work.exchanges],
        }
        if work.bound is not None:
            tree["roofline"] = asdict(work.bound) | {
                "seconds": work.bound.seconds,
                "bound": work.bound.bound,
                "rows": rows or MILLION,
                "days": days(rows or MILLION, batch_size, work.bound.seconds),
            }
    return tree


def as_text(plan: Estimate, rows: int | None, batch_size: int) -> str:
    """The same for people to read."""
    one, shape, trainer = plan.topology, plan.shape, plan.trainer
    mesh = " ".join(f"{axis}={size}" for axis, size in trainer.mesh.shape.items())
    lines = [
        f"{one.name}: {one.count} × {one.chip_name}, mesh {mesh}",
        f"step at its fullest: {shape.rows} rows of {shape.length} tokens in {shape.micro_batches} "
        f"micro-batch{'es' if shape.micro_batches > 1 else ''}, {trainer.parameters:,} "
        f"parameters; compiled in {seconds_text(plan.seconds)}",
    ]
    if one.chip.kind == "gpu":
        lines.append(
            "an estimate: compiled for simulated CPU devices, which keep bfloat16 products in "
            "float32; a GPU's compiler fuses and schedules otherwise"
        )
    lines += memory_lines(plan.memory, one.chip)
    if plan.work is None:
        lines.append("  the compiler refused it; the rest is as its message says")
        return "\n".join(lines)
    return "\n".join(lines + _work(plan.work, rows, batch_size))


def memory_lines(memory: Memory, chip: Chip) -> list[str]:
    """The memory of a chip, a line a part, and whether it is enough."""
    lines = ["", "memory of a chip"]
    for name, words in PARTS:
        number = getattr(memory, name)
        if number or name == "temporaries":
            lines.append(f"  {words:<28} {bytes_text(number):>12}")
    share = memory.usable / chip.memory
    return [
        *lines,
        f"  {'together':<28} {bytes_text(memory.total):>12}",
        f"  {'usable':<28} {bytes_text(memory.usable):>12}  {percent(share)} of "
        f"{bytes_text(chip.memory)}{_usable_note(chip.kind, share)}",
        f"  {'fits' if memory.fits else 'does not fit'}: "
        f"{percent(memory.total / memory.usable)} of what is usable",
    ]


def _work(work: Work, rows: int | None, batch_size: int) -> list[str]:
    lines = [
        "",
        "work of a chip and step",
        f"  the model's products         {si(work.flops)}FLOP, nothing computed again",
        f"  state, read and written      {bytes_text(work.state_bytes)}",
        f"  (the compiler's count, each loop's body once: {si(work.compiler_flops)}FLOP, "
        f"{bytes_text(work.compiler_bytes)})",
        "",
        "exchanges of a chip and step",
    ]
    for exchanges in work.exchanges:
        lines.append(
            f"  {exchanges.count:>6,.0f} × {exchanges.kind}, {exchanges.group} chips: "
            f"{bytes_text(exchanges.bytes)}, {bytes_text(exchanges.sent)} sent"
        )
    if not work.exchanges:
        lines.append("  none")
    if work.bound is None:
        return [*lines, "", "no step time: there is no public figure of this chip's speed"]
    bound = work.bound
    epoch = days(rows or MILLION, batch_size, bound.seconds)
    work_of = f"{f'an epoch of {rows:,}' if rows else 'a million'} rows, were all steps so full"
    return [
        *lines,
        "",
        "least time of such a step, by public figures",
        f"  compute {seconds_text(bound.compute)}, memory {seconds_text(bound.memory)}, "
        f"exchanges {seconds_text(bound.exchange)}",
        f"  bound by {bound.bound}: {seconds_text(bound.seconds)} a step, {_days(epoch)} {work_of}",
    ]


def _usable_note(kind: str, share: float) -> str:
    if kind == "gpu" and share < 1:
        return f", with XLA_PYTHON_CLIENT_MEM_FRACTION={share:.2g} (JAX itself takes 75%)"
    return ""


def bytes_text(number: float) -> str:
    """ "1.50 GB", in powers of ten."""
    return f"{si(number)}B"


def si(number: float) -> str:
    """ "1.50 G", in powers of ten, for a unit to follow."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f} "


def seconds_text(number: float) -> str:
    """ "1.50 s" or "12.3 ms"."""
    return f"{number:.2f} s" if number >= 1 else f"{number * 1e3:.3g} ms"


def _days(number: float) -> str:
    return f"{number:.2f} days for" if number >= 0.1 else f"{number * 24 * 60:.3g} minutes for"
