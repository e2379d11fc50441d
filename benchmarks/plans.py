"""Plans of LLaMA-2-7B on the machines that people have: what fits, what it takes, how soon it ends.

    python benchmarks/plans.py [NAME …]

Runs `python -m zsg_jax.plan --json` once for each, compiling for machines that are not here (the
`tpu` extra), and prints a table. Minutes each.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LORA = ("model.lora.rank=16", "training.micro_batch_size=1")
# 16 rows of 2,048 tokens, computed in bfloat16, in full: what the preset says.
PLANS: dict[str, tuple[str, tuple[str, ...]]] = {
    "v5e-16": ("v5e-16", ()),
    "v5p-8": ("v5p-8", ()),
    "v5p-8-dots": ("v5p-8", ("model.remat=dots",)),
    "v6e-8": ("v6e-8", ()),
    "h200": ("h200:1", ()),
    "h200-bfloat16": ("h200:1", ("model.param_dtype=bfloat16",)),
    "a100": ("a100-80:8", ()),
    "a100-dots": ("a100-80:8", ("model.remat=dots",)),
    "rtx4090-lora": ("rtx4090:1", LORA),
    "v5e-4-lora": ("v5e:2x2", ("model.lora.rank=16",)),
    "v5e-4": ("v5e:2x2", ()),
}
ROWS = 30_000


def plan(machine: str, overrides: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """What the command prints as JSON, and its last line where it does not fit."""
    command = [sys.executable, "-m", "zsg_jax.plan", "--config", "configs/tmta.py:llama2_7b"]
    command += ["--topology", machine, "--rows", str(ROWS), "--json"]
    done = subprocess.run(
        [*command, *(f"--config.{one}" for one in overrides)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        # A program read from a cache has not been compiled, and tells no memory.
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    if not done.stdout:
        sys.exit(f"{machine}: {done.stderr}")
    return json.loads(done.stdout), done.stderr.strip().splitlines()[-1] if done.returncode else ""


def line(told: dict[str, Any], overrides: tuple[str, ...]) -> list[str]:
    """The cells of a plan: 10^9 bytes of a chip, seconds, days."""
    memory = told["memory"]
    giga = {name: f"{number / 1e9:.1f}" for name, number in memory.items()}
    work = [f"{sum(one['sent'] for one in told.get('collectives', [])) / 1e9:.1f}"]
    roof = told.get("roofline")
    bound = (
        [f"{roof['seconds']:.2f} ({roof['bound']})", f"{roof['days']:.3f}"] if roof else ["–"] * 2
    )
    return [
        f"{told['topology']}{' (an estimate)' if told['estimate'] else ''}",
        " ".join(overrides) or "full, float32 state",
        " ".join(f"{axis}={size}" for axis, size in told["mesh"].items() if size > 1) or "–",
        giga["parameters"],
        giga["optimizer"],
        giga["temporaries"],
        f"{giga['total']} of {giga['usable']}",
        "yes" if told["fits"] else "no",
        *bound,
        *(work if roof else ["–"]),
        f"{told['compile_seconds']:.0f}",
    ]


HEAD = [
    *("machine", "setting", "mesh", "parameters", "optimizer", "temporaries", "of usable", "fits"),
    *("step, s at least", "days at least", "sent, GB", "compiled in, s"),
]


def main(names: list[str]) -> None:
    """Prints the table of the named plans, or of all, a line as soon as it is there."""
    if unknown := [name for name in names if name not in PLANS]:
        sys.exit(f"no plan {', '.join(unknown)}; choose from {', '.join(PLANS)}")
    print(f"LLaMA-2-7B, 16 × 2,048 tokens, an epoch of {ROWS:,} rows; GB of a chip\n")
    notes = []
    for row in [HEAD, ["---"] * len(HEAD)]:
        print(f"| {' | '.join(row)} |")
    for name in names or PLANS:
        machine, overrides = PLANS[name]
        print(f"… {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        told, refusal = plan(machine, overrides)
        print(f"| {' | '.join(line(told, overrides))} |", flush=True)
        if refusal:
            seconds = time.perf_counter() - start
            notes.append(
                f"{name}: exit 1 after {seconds:.0f} s; {refusal.removeprefix('zsg_jax: ')}"
            )
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
