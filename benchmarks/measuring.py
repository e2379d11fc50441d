"""Measures in child processes, so that peak memory is a measurement's own, and prints tables."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.runtime.errors import UserError

WORK = Path(__file__).with_name("work.py")
LIBRARIES = (
    "jax",
    "jaxlib",
    "numpy",
    "faiss-cpu",
    "torch",
    "transformers",
    "sentence-transformers",
)


class Measured(NamedTuple):
    """One line of a table: seconds are a median over runs, `peak` is resident bytes."""

    what: str
    seconds: float
    peak: int
    result: dict[str, Any]


def child(what: str, name: str, script: Path = WORK, **arguments: Any) -> Measured:
    """Runs the function `name(**arguments)` of `script` in a process of its own.

    Raises:
        UserError: the child failed; what it said stands above.
    """
    print(f"… {what}", file=sys.stderr, flush=True)
    command = [sys.executable, str(script), name, json.dumps(arguments)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        raise UserError(f"{what}: the measuring process ended with exit code {run.returncode}")
    answer = json.loads(run.stdout.splitlines()[-1])
    return Measured(what, answer["seconds"], answer["peak"], answer["result"])


def timed(function: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """Median seconds of `runs` calls, and what the last one gave."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def table(title: str, ours: Measured, peers: list[Measured]) -> str:
    """Lines of what, seconds, peak, and how often ours goes into it."""
    lines = [title, f"{'':38}{'seconds':>10}{'peak GB':>10}{'ours / it':>11}{'it / ours':>11}"]
    for row in [ours, *peers]:
        ratios = (ours.seconds / row.seconds, row.seconds / ours.seconds)
        text = f"{ratios[0]:11.3f}{ratios[1]:11.2f}" if row is not ours else ""
        lines.append(f"{row.what:38}{row.seconds:10.2f}{row.peak / 1e9:10.2f}{text}")
    return "\n".join(lines)


def verdict(what: str, value: float, limit: float, *, at_most: bool, unit: str = "") -> str:
    """One line that says whether a target was met."""
    met = value <= limit if at_most else value >= limit
    sign = "≤" if at_most else "≥"
    return f"target {what} {sign} {limit:g}{unit}: {value:.2f}{unit}, {'met' if met else 'MISSED'}"


def tell(
    name: str,
    case: Callable[[], list[str]],
    output: Path | None,
    remarks: Callable[[str], list[str]] = lambda before: [],
) -> None:
    """Runs a case and prints its lines, the load and the machine; into OUTPUT/NAME.txt, if asked.

    `remarks` are lines more, made of the load before the case.
    """
    before, start = load(), time.perf_counter()
    lines = case()
    took = f"{time.perf_counter() - start:.0f} s in all"
    lines.append(f"load of the machine {before} before, {load()} after; {took}")
    text = "\n".join([*lines, *remarks(before), machine()])
    print(text + "\n", flush=True)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / f"{name}.txt").write_text(text + "\n")


def machine() -> str:
    """Versions and hardware in words, without names of hosts."""
    found = []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {library}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    return (
        f"Python {platform.python_version()}, {', '.join(found)}\n"
        f"{platform.system()} {platform.machine()}, {processor()}, {cores} cores, "
        f"{memory:.0f} GB memory{card()}"
    )


def card() -> str:
    """The name of the GPU at hand, behind a comma; nothing without one."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return ", " + subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def processor() -> str:
    """The processor's name, as the system tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def load() -> str:
    """How many processes wanted a core in the last minute: other people's work slows a case."""
    return f"{os.getloadavg()[0]:.1f}"
