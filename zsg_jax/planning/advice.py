"""The nearest setting that fits a machine, found by compiling settings one after the other."""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from zsg_jax.planning.join import REMAT, make_mesh, trainer_of
from zsg_jax.planning.memory import least_bytes
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.progress import say
from zsg_jax.training import sharding

Setting = dict[str, Any]
# Compiles at most before something coarser is tried: of a large model each takes a minute.
MOST = 10
# Of the adapters that are proposed.
RANK = 16


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
    now = sharding.mesh_sizes(**config.mesh.to_dict(), devices=chips)
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


def coarser(config: ConfigDict, *, adapters: bool) -> list[Setting]:
    """Settings that take less memory and learn otherwise: weights of fewer bits, then adapters.

    Args:
        adapters: whether there are weights to be adapted.
    """
    model = config.model
    fewer = {} if model.dtype == "bfloat16" else {"model.dtype": "bfloat16"}
    if model.lora.rank:
        return [fewer] if fewer else []
    found: list[Setting] = []
    if model.param_dtype != "bfloat16":
        found.append({"model.param_dtype": "bfloat16"})
    if adapters:
        found.append({"model.lora.rank": RANK, **fewer})
    return found


def learns_otherwise(setting: Setting) -> bool:
    """Whether a setting is one of `coarser`."""
    return not {"model.param_dtype", "model.dtype", "model.lora.rank"}.isdisjoint(setting)


def nearest(
    config: ConfigDict,
    devices: list[Any],
    machine: str,
    usable: int,
    fits: Callable[[ConfigDict], bool],
    *,
    adapters: bool = False,
) -> tuple[Setting | None, int]:
    """The setting that changes least of those that fit, and how many were compiled.

    What changes nothing that is learned comes first, and only where none of it fits `coarser`.

    Args:
        usable: bytes of a chip.
        fits: compiles a config and says whether it fits.
        adapters: as `coarser` takes it.
    """
    tried: list[Setting] = []
    most = 0

    def tries(setting: Setting) -> bool:
        if len(tried) >= most:
            return False
        tried.append(setting)
        say(f"trying {written(setting)}")
        return fits(changed(config, setting))

    for first in [{}, *coarser(config, adapters=adapters)]:
        most = len(tried) + MOST
        for mesh in [{}, *meshes(config, len(devices))]:
            settings = _that_may_fit(config, {**first, **mesh}, devices, machine, usable)
            found = _least(settings, tries)
            if found is not None:
                return found, len(tried)
    return None, len(tried)


def _that_may_fit(
    config: ConfigDict, start: Setting, devices: list[Any], machine: str, usable: int
) -> list[Setting]:
    """`start` and its chain, as far as rows divide; none where the state alone is too large."""
    base = changed(config, start)
    try:
        mesh = make_mesh(base, devices, machine)
        settings = [{**start, **one} for one in chain(base, sharding.row_devices(mesh))]
        settings = [start, *settings] if start else settings
        settings = [one for one in settings if possible(changed(config, one), mesh)]
        if not settings:
            return []
        state = trainer_of(changed(config, settings[-1]), mesh).abstract_state
    except UserError:
        return []  # sizes that do not divide
    return settings if least_bytes(state) <= usable else []


def _least(settings: list[Setting], tries: Callable[[Setting], bool]) -> Setting | None:
    """The first of the settings that fits.

    The thriftiest is tried first: where that does not fit, none does, unless its micro-batches are
    what is too much, whose sums of gradients take room. Then by halving.
    """
    whole = [one for one in settings if "training.micro_batch_size" not in one]
    for candidates in (settings, whole if len(whole) < len(settings) else []):
        if not candidates or not tries(candidates[-1]):
            continue
        low, high = 0, len(candidates) - 1
        while low < high:
            middle = (low + high) // 2
            if tries(candidates[middle]):
                high = middle
            else:
                low = middle + 1
        return candidates[high]
    return None


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
