"""The plan as a command does it: compile, print, and seek what fits where the config does not."""

import json
from dataclasses import replace

from ml_collections import ConfigDict

from zsg_jax.data.sources import REWRITES
from zsg_jax.planning import advice, report
from zsg_jax.planning import machines as topology
from zsg_jax.planning.estimate import try_config, work
from zsg_jax.planning.join import resolve
from zsg_jax.planning.memory import least_bytes
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows.validate import validate


def run(
    config: ConfigDict,
    machine: str,
    *,
    rows: int | None = None,
    memory_gb: float | None = None,
    as_json: bool = False,
) -> str | None:
    """Plans the config for a machine and prints it to standard output.

    Args:
        machine: as `topology.parse` takes it.
        rows: of an epoch; None: what the config tells of them.
        memory_gb: 10^9 bytes of each chip that may be used.

    Returns:
        None if it fits; else one line that says what would.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    validate(config)
    if rows is not None and rows < 1:
        raise UserError(f"--rows {rows}: give a number above 0")
    place = topology.parse(machine, memory_gb)
    topology.prepare(place)
    devices = topology.devices(place)
    given, config = config, resolve(config)
    rows = rows or epoch_rows(config)
    plan = try_config(config, devices, place)
    plan = replace(plan, work=work(plan.compiled, place))
    batch_size = config.training.batch_size
    if not as_json:
        print(report.as_text(plan, rows, batch_size), flush=True)
    setting, tried = None, 0
    if not plan.memory.fits:
        setting, tried = advice.nearest(
            config,
            devices,
            place.name,
            plan.memory.usable,
            lambda other: try_config(other, devices, place).memory.fits,
            adapters=bool(given.model.init_from),
        )
    told = None if setting is None else advice.written(setting)
    if as_json:
        print(json.dumps(report.as_tree(plan, rows, batch_size, told), indent=2))
    if plan.memory.fits:
        return None
    if setting is not None:
        but = ", though it learns otherwise" if advice.learns_otherwise(setting) else ""
        return f"does not fit {place.name}; this does{but}, nearest of {tried} tried: {told}"
    state = plan.compiled.trainer.abstract_state
    others = f", nor does any of {tried} other settings tried" if tried else ""
    return (
        f"does not fit {place.name}{others}; a chip has "
        f"{report.bytes_text(plan.memory.usable)}, state and gradients alone take "
        f"{report.bytes_text(least_bytes(state))} on this mesh; take more or larger chips"
    )


def epoch_rows(config: ConfigDict) -> int | None:
    """Rows of an epoch as far as the config tells them, without reading any data."""
    known = None
    if config.data.train == REWRITES:
        made = config.data.rewrites
        known = len(made.train_families) * made.rules * made.samples
    budget = config.arrangement.budget
    if budget is None:
        return known
    return budget if known is None else min(known, budget)
