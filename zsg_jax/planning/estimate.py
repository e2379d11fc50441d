"""Everything a plan says of one config on one machine, from one compile."""

from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from zsg_jax.planning import cost, hlo
from zsg_jax.planning.causes import Cause, Explainer, explain
from zsg_jax.planning.collectives import collectives
from zsg_jax.planning.join import Compiled, compile_step
from zsg_jax.planning.machines import Topology
from zsg_jax.planning.memory import Memory, memory, shard_bytes
from zsg_jax.planning.roofline import Roofline, roofline
from zsg_jax.training.step import FROZEN


@dataclass(frozen=True)
class Work:
    """What one chip does in a step.

    Attributes:
        flops: of the matrix products of the program, what is computed again included.
        needed: of the model's own formula, nothing again.
        told_flops, told_bytes: the compiler's own count, which takes each loop's body once.
        traffic: bytes read from and written to memory, loops by their turns; of a GPU only those
            of the state, once each.
        exchanges: by kind and cause.
        bound: the roofline; None for a chip without public figures.
    """

    flops: float
    needed: float
    told_flops: float
    told_bytes: float
    traffic: float
    exchanges: tuple[Cause, ...]
    bound: Roofline | None


@dataclass(frozen=True)
class Estimate:
    """A plan of one config; `work` is None where the compiler refused it as too large."""

    topology: Topology
    compiled: Compiled
    memory: Memory
    work: Work | None


def try_config(config: ConfigDict, devices: list[Any], topology: Topology) -> Estimate:
    """Compiles the config's step and measures its memory; `work` is left out.

    Raises:
        UserError: a mesh, batch or model that cannot be.
    """
    compiled = compile_step(config, devices, topology.name)
    return Estimate(topology, compiled, memory(compiled, topology.chip), None)


def work(compiled: Compiled, topology: Topology) -> Work | None:
    """What a chip does in the compiled step."""
    if compiled.step is None:
        return None
    unknown = compiled.micro_batches
    module = hlo.parse(compiled.step.as_text() or "")
    state = compiled.trainer.abstract_state
    params = state["params"]
    exchanges = collectives(module, compiled.mesh_shape, wired=topology.chip.wired, unknown=unknown)
    why = Explainer(
        module,
        params,
        rows=compiled.rows,
        width=compiled.model.hidden_size,
        layers=compiled.model.num_layers,
    )
    chips = topology.count
    flops = cost.matmul_flops(compiled.jaxpr(), unknown) / chips
    needed = (
        cost.model_flops(compiled.model, params, compiled.rows, compiled.length, state.get(FROZEN))
        / chips
    )
    # A GPU's compiler fuses otherwise: all that is sure is that the state is read and written.
    traffic = (
        float(2 * shard_bytes(state))
        if topology.chip.kind == "gpu"
        else cost.memory_traffic(module, unknown)
    )
    told: Any = compiled.step.cost_analysis()
    told = told[0] if isinstance(told, list) else told or {}
    return Work(
        flops=flops,
        needed=needed,
        told_flops=float(told.get("flops", 0.0)),
        told_bytes=float(told.get("bytes accessed", 0.0)),
        traffic=traffic,
        exchanges=tuple(explain(exchanges, why)),
        bound=roofline(topology.chip, flops, traffic, exchanges),
    )
