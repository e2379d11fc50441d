"""A study's arrangements: made where they are missing, and loaded."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.arrangement import make as arranging
from zsg_jax.arrangement.arrangement import Arrangement, load_arrangement
from zsg_jax.data.pool import Pool
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.progress import bar, passes
from zsg_jax.similarity.search.options import Search
from zsg_jax.workdir import claims as workdirs


def make_arrangements(
    config: ConfigDict, workdir: Path, pool: Pool, mesh: Mesh
) -> dict[str, Arrangement]:
    """Makes the arrangements that are not there yet, and loads all."""
    folders = {
        name: workdirs.arrangement_folder(workdir, name) for name in config.arrangement.methods
    }
    digests = _digests(pool)
    missing = {name: folder for name, folder in folders.items() if not arranging.is_made(folder)}
    looked = (workdir / workdirs.LEAKAGE).exists()
    if missing or not looked:
        sides = arranging.embed_sides(
            pool.train.select(pool.usable),
            pool.test,
            config.similarity.encoder,
            workdir / "embeddings",
            dtype=config.similarity.dtype,
        )
        _make(config, workdir, pool, sides, missing, leaks=not looked, mesh=mesh)
    arrangements: dict[str, Arrangement] = {}
    encoders: dict[str, str | None] = {}
    for name, folder in folders.items():
        arrangements[name], provenance = load_arrangement(folder)
        if any(provenance.get(key) != digest for key, digest in digests.items()):
            raise UserError(
                f"{folder}: was made from other instances; delete the folder to make it again"
            )
        encoders[name] = provenance.get("encoder_digest")
    if len(set(encoders.values())) > 1:
        parts = "; ".join(f"{name}: {digest}" for name, digest in encoders.items())
        raise UserError(
            f"{workdir / 'arrangements'}: not all were made with the same encoder ({parts}): "
            f"{config.similarity.encoder} has changed since; give another --workdir, or put it "
            "back and delete what the other one made"
        )
    return arrangements


def _digests(pool: Pool) -> dict[str, Any]:
    return {key: pool.facts[key] for key in ("train_digest", "test_digest")}


def _make(
    config: ConfigDict,
    workdir: Path,
    pool: Pool,
    sides: arranging.Sides,
    missing: dict[str, Path],
    *,
    leaks: bool,
    mesh: Mesh,
) -> None:
    """Looks for leaks if asked to, and makes the arrangements that are `missing`."""
    aimed = sides.toward(pool.aimed)
    # Of a part of the test rows the statistics tell nothing about leaks of the others.
    shared = leaks and aimed is sides
    with bar(None, "similarity") as progress:
        search = Search(mesh, config.similarity.block_rows, passes(progress))
        inputs = arranging.make_inputs(
            aimed,
            missing,
            config.similarity.trajectory if missing else (),
            leaks=shared,
            distance=config.similarity.distance,
            w_min=config.arrangement.w_min,
            w_avg=config.arrangement.w_avg,
            budget=config.arrangement.budget,
            search=search,
        )
        if leaks:
            arranging.look_for_leaks(
                workdir,
                sides,
                (pool.usable, pool.answered),
                largest=inputs.cosines.maximum if shared else None,
                search=search,
            )
        if missing:
            arranging.make_arrangements(
                missing,
                aimed,
                inputs,
                pool.usable,
                seed=config.arrangement.seed,
                batch_size=config.training.batch_size,
                steps=config.training.steps,
                every=config.evaluation.every,
                measures=config.similarity.trajectory,
                provenance=_digests(pool),
                search=search,
            )
