"""The nearest setting that fits a machine, found by compiling settings one after the other.

A setting is a dict of config keys, such as {"model.remat": "full"}: what is changed of the config.
"""

from collections.abc import Callable, Iterator
from typing import Any

from zsg_jax.models.placement import REMAT
from zsg_jax.runtime.progress import say
from zsg_jax.training import sharding

Setting = dict[str, Any]
# Compiles at most before something coarser is tried: of a large model each takes a minute.
MOST = 10
# Of the adapters that are proposed.
RANK = 16


def micro_batch(config: Setting) -> int:
    """Rows at once, of a config with its keys flattened."""
    return int(config["training.micro_batch_size"] or config["training.batch_size"])


def chain(config: Setting, rows_apart: int) -> list[Setting]:
    """Settings of one mesh, each taking less memory than the one before.

    First more is computed again in the backward pass, then fewer rows are taken at once.

    Args:
        config: its keys flattened.
        rows_apart: what the rows of a micro-batch must be a multiple of.
    """
    every, remat = list(REMAT), config["model.remat"]
    now, batch_size = micro_batch(config), config["training.batch_size"]
    more = every[every.index(remat) + 1 :] if remat in every else every[-1:]
    found: list[Setting] = [{"model.remat": one} for one in more]
    last = found[-1] if found else {}
    for rows in range(now - 1, 0, -1):
        if batch_size % rows == 0 and rows % rows_apart == 0 and now % rows == 0:
            found.append({**last, "training.micro_batch_size": rows})
    return found


def meshes(config: Setting, chips: int) -> Iterator[Setting]:
    """Other meshes of as many chips, those that leave most as it is first.

    The state is split further at the cost of copies, then layers are split too.
    """
    now = _mesh(config, chips)
    sizes = [n for n in range(1, chips + 1) if chips % n == 0]
    seen = []
    for tensor in sizes:
        for data in sizes[::-1] if tensor == 1 else [1]:
            if chips % (tensor * data):
                continue
            mesh = {"data": data, "fsdp": chips // (tensor * data), "tensor": tensor}
            if mesh != now and mesh not in seen:
                seen.append(mesh)
                yield {f"mesh.{axis}": size for axis, size in mesh.items()}


def _mesh(config: Setting, chips: int) -> dict[str, int]:
    given = {axis: int(config[f"mesh.{axis}"]) for axis in sharding.AXES}
    return sharding.mesh_sizes(**given, devices=chips)


def coarser(config: Setting, *, adapters: bool) -> list[Setting]:
    """Settings that take less memory and learn otherwise: weights of fewer bits, then adapters.

    Args:
        adapters: whether there are weights to be adapted.
    """
    fewer = {} if config["model.dtype"] == "bfloat16" else {"model.dtype": "bfloat16"}
    if config["model.lora.rank"]:
        return [fewer] if fewer else []
    found: list[Setting] = []
    if config["model.param_dtype"] != "bfloat16":
        found.append({"model.param_dtype": "bfloat16"})
    if adapters:
        found.append({"model.lora.rank": RANK, **fewer})
    return found


def learns_otherwise(setting: Setting) -> bool:
    """Whether a setting is one of `coarser`."""
    return not {"model.param_dtype", "model.dtype", "model.lora.rank"}.isdisjoint(setting)


def nearest(
    config: Setting,
    chips: int,
    may_fit: Callable[[Setting], bool],
    fits: Callable[[Setting], bool],
    *,
    adapters: bool = False,
) -> tuple[Setting | None, int]:
    """The setting that changes least of those that fit, and how many were compiled.

    What changes nothing that is learned comes first, and only where none of it fits `coarser`.

    Args:
        config: its keys flattened.
        may_fit: whether a setting's sizes divide, and its state and gradients alone fit.
        fits: compiles a setting and says whether it fits.
        adapters: as `coarser` takes it.
    """
    tried: list[Setting] = []
    most = 0

    def tries(setting: Setting) -> bool:
        if len(tried) >= most:
            return False
        tried.append(setting)
        say(f"trying {written(setting)}")
        return fits(setting)

    for first in [{}, *coarser(config, adapters=adapters)]:
        most = len(tried) + MOST
        for mesh in [{}, *meshes(config, chips)]:
            found = _least(_of_mesh(config, {**first, **mesh}, chips, may_fit), tries)
            if found is not None:
                return found, len(tried)
    return None, len(tried)


def _of_mesh(
    config: Setting, start: Setting, chips: int, may_fit: Callable[[Setting], bool]
) -> list[Setting]:
    """`start` and its chain, as far as rows divide; none where the thriftiest is hopeless."""
    changed = {**config, **start}
    mesh = _mesh(changed, chips)
    rows_apart = mesh["data"] * mesh["fsdp"]
    settings = [{**start, **one} for one in chain(changed, rows_apart)]
    settings = [start, *settings] if start else settings
    settings = [one for one in settings if micro_batch({**changed, **one}) % rows_apart == 0]
    return settings if settings and may_fit(settings[-1]) else []


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


def written(setting: Setting) -> str:
    """A setting as flags of the command line."""
    return " ".join(f"--config.{key}={value}" for key, value in setting.items())
