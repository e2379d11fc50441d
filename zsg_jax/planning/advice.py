"""The nearest setting that fits a machine, found by compiling settings one after the other."""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from zsg_jax.errors import UserError
from zsg_jax.planning.join import REMAT, make_mesh, trainer_of
from zsg_jax.planning.memory import least_bytes
from zsg_jax.progress import say
from zsg_jax.training import sharding

Setting = dict[str, Any]
# Compiles at most: of a large model each takes a minute.
MOST = 10


def chain(config: ConfigDict, rows_apart: int) -> list[Setting]:
    """Settings of one mesh, each taking less memory than the one before.

    First more is computed again in the backward pass, then fewer rows are taken at once.

    Args:
        rows_apart: what the rows of a micro-batch must be a multiple of.
    """
    training, remat = config.training, config.model.remat
    now = training.micro_batch_size or training.batch_size
    more = REMAT[REMAT.index(remat) + 1 :] if remat in REMAT else REMAT[-1:]
    found: list[Setting] = [{"model.remat": one} for one in more]
    last = found[-1] if found else {}
    for rows in range(now - 1, 0, -1):
        if training.batch_size % rows == 0 and rows % rows_apart == 0 and now % rows == 0:
            found.append({**last, "training.micro_batch_size": rows})
    return found


def meshes(config: ConfigDict, chips: int) -> Iterator[Setting]:
    """Other meshes of as many chips, those that leave most as it is first.

    The state is split further at the cost of copies; where there is an axis for it, layers are
    split too.
    """
    now = {axis: int(config.mesh[axis]) for axis in sharding.AXES}
    others = [axis for axis in sharding.AXES if axis not in ("data", "fsdp")]
    sizes = [n for n in range(1, chips + 1) if chips % n == 0]
    seen = []
    for inner in sizes if others else [1]:
        for copies in sizes[::-1] if inner == 1 else [1]:
            if chips % (inner * copies):
                continue
            mesh = {"data": copies, "fsdp": chips // (inner * copies)}
            mesh |= dict.fromkeys(others, inner)
            if mesh != now and mesh not in seen:
                seen.append(mesh)
                yield {f"mesh.{axis}": size for axis, size in mesh.items()}


def changed(config: ConfigDict, setting: Setting) -> ConfigDict:
    """A copy of the config with this setting."""
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict(setting)
    return other


def nearest(
    config: ConfigDict,
    devices: list[Any],
    machine: str,
    usable: int,
    fits: Callable[[ConfigDict], bool],
) -> tuple[Setting | None, int]:
    """The setting that changes least of those that fit, and how many were compiled.

    Of each mesh, the config's own first, the thriftiest setting is compiled first: where that does
    not fit, none of that mesh does. The least change that fits is then found by halving. A mesh on
    which the state alone is too large is not compiled at all.

    Args:
        usable: bytes of a chip.
        fits: compiles a config and says whether it fits.
    """
    compiled = 0

    def tries(setting: Setting) -> bool:
        nonlocal compiled
        compiled += 1
        say(f"trying {written(setting)}")
        return fits(changed(config, setting))

    for mesh in [{}, *meshes(config, len(devices))]:
        base = changed(config, mesh)
        try:
            placed = make_mesh(base, devices, machine)
            apart = sharding.row_devices(placed)
            settings = [{**mesh, **one} for one in chain(base, apart)]
            if mesh:
                settings = [mesh, *settings]
            settings = [one for one in settings if possible(changed(config, one), placed)]
            if not settings:
                continue
            state = trainer_of(changed(config, settings[-1]), placed).abstract_state
        except UserError:
            continue  # sizes that do not divide
        if least_bytes(state) > usable:
            continue
        if compiled >= MOST:
            break
        if not tries(settings[-1]):
            continue
        low, high = 0, len(settings) - 1
        while low < high and compiled < MOST:
            middle = (low + high) // 2
            if tries(settings[middle]):
                high = middle
            else:
                low = middle + 1
        return settings[high], compiled
    return None, compiled


def possible(config: ConfigDict, mesh: Any) -> bool:
    """Whether the step's rows divide over its micro-batches, and those over the mesh."""
    training = config.training
    try:
        sharding.rows_fit(
            mesh, training.batch_size, training.micro_batch_size or training.batch_size
        )
    except UserError:
        return False
    return True


def written(setting: Setting) -> str:
    """A setting as flags of the command line."""
    return " ".join(f"--config.{key}={value}" for key, value in setting.items())
