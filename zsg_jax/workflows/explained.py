"""The page of each arrangement of a study, which its report leads to."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.make import Compared, Made
from zsg_jax.arrangement.target_sets import sets_facts
from zsg_jax.runtime.files import read_json
from zsg_jax.runtime.progress import bar, passes
from zsg_jax.similarity.search.options import Search
from zsg_jax.workdir import layout


def explainer(
    config: ConfigDict, workdir: Path, search: Search, names: Collection[str] | None = None
) -> Callable[[Path, Made, Compared], Any]:
    """Gives what writes the page of an arrangement into its folder; `names`: those that get one."""

    def write(folder: Path, made: Made, compared: Compared) -> None:
        if names is not None and folder.name not in names:
            return
        # Imported here: Matplotlib takes a second, and a resume draws nothing.
        from zsg_jax.report.explain import explain

        pair, method = compared.pair, folder.name
        found = compared.leakage
        shown = {
            "Method": method,
            "Training rows, kept": f"{config.data.train}: {len(pair.train):,} that may be chosen",
            "Test rows, kept": f"{config.data.test}: {len(pair.test):,} to arrange toward",
            "Encoder": str(pair.encoder_facts["encoder"]),
            "Embedded": f"{config.similarity.text} of each row",
            "Distance": config.similarity.distance,
        }
        shown |= sets_facts(made.facts)
        if twins := compared.deduplicated:
            shown["Left out as duplicates"] = f"{len(twins.found.rows):,} rows"
        if config.arrangement.drop_leaks is not None:
            shown["Left out as leaks"] = f"{len(compared.dropped):,} rows"
        with bar(None, f"explanation of {method}") as progress:
            explain(
                folder / layout.EXPLAINED,
                Arrangement(made.chosen, made.arrangement.turn),
                pair,
                leakage=found.summary() if found else read_json(workdir / layout.LEAKAGE),
                facts=shown,
                title=f"{config.report.title}: {method}",
                leaks_left_out=config.arrangement.drop_leaks is not None,
                search=search.with_progress(passes(progress)),
            )

    return write
