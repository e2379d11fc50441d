"""What became of the rows of a study, in words: how many were read, were kept, and were used."""

from collections.abc import Mapping, Sequence
from typing import Any

from zsg_jax.arrangement.epochs import read_anew
from zsg_jax.report.words import listed, named
from zsg_jax.runtime.progress import count

_LIMITS = {"train": "data.max_length", "test": "evaluation.max_length"}


def read_and_kept(
    data: Mapping[str, Any], config: Mapping[str, Any], made: Mapping[str, Any]
) -> dict[str, str]:
    """Label → text, of both sides.

    Args:
        data, config: data.json and config.json of the workdir.
        made: arrangement.json of one of its arrangements.
    """
    both = len(data["shared_tasks"])
    shared = (
        f"{both:,} of them in the training data too"
        if both
        else "none of them by name in the training data"
    )
    if data["split"]:
        aims = f"{data['aimed_rows']:,} to arrange toward, {data['scored_rows']:,} to score on"
    else:
        aims = "to arrange toward and to score on"
    read = {
        side: f"{config[f'data.{side}']}: {count(data[f'{side}_rows'], 'row')} of "
        f"{count(data[f'{side}_tasks'], 'task')}{_chosen(side, config)}"
        for side in ("train", "test")
    }
    return {
        "Training data, read": read["train"],
        "Training data, kept": _kept("train", data, _unchosen(made)),
        "Test data, read": f"{read['test']}, {shared}",
        "Test data, kept": f"{_kept('test', data, {})}; {aims}{copies(data)}",
    }


def but_alike(data: Mapping[str, Any]) -> str:
    """What is to be added where rows to score are named: how many of them have steered, too.

    Args:
        data: data.json of the workdir; earlier versions do not tell.
    """
    alike = data.get("scored_alike", 0)
    return f", but {alike:,} of these say the same as one of the former" if alike else ""


def copies(data: Mapping[str, Any]) -> str:
    """What is to be added to the rows that are scored: how many are copies of others among them.

    Args:
        data: data.json of the workdir; earlier versions do not tell.
    """
    found = data.get("scored_copies", 0)
    if not found:
        return ""
    return (
        f"; of those to score, {found:,} say the same as an earlier one: intervals and p that take "
        "each for an instance of its own are too sure"
    )


def taken(rules: Sequence[str], of: str = "") -> list[str]:
    """What a reader of methods' names must know where not all was taken in their order.

    Args:
        rules: `training.epochs` of a study.
        of: which study it was, as " of NAME", where there are several.
    """
    meant = {
        "backward": "backward in the first epoch: what a method's name calls first came last",
        "shuffled": "shuffled in the first epoch: a method's name tells which rows were taken, "
        "not in which order",
    }
    if anew := read_anew(rules).steps:
        return [
            f"After step {listed([*map(str, anew)])} each run{of} arranged anew what it had not "
            "met: turns, distances and the pages of orders are of what it began with."
        ]
    return [f"The runs{of} took their rows {meant[rules[0]]}."] if rules[0] in meant else []


def used(
    name: str, chosen: int, turns: int, trained: int, steps: int, anew: Sequence[int] = ()
) -> dict[str, str]:
    """Label → text: of the rows kept, how many an arrangement has and how many were trained on.

    Args:
        name: of the arrangement, of `chosen` rows in `turns` turns.
        trained: how many of its rows were trained on.
        steps: that were taken in all.
        anew: after which of these each run arranged anew what it had not met; the arrangement was
            followed up to the first.
    """
    rows, followed = f"{count(chosen, 'row')} in {count(turns, 'turn')}", min(anew, default=steps)
    if anew:
        told = (
            f"the first {trained:,} of them trained on, in {count(followed, 'step')}, and then, in "
            f"{count(steps - followed, 'step')}, rows that each run arranged anew of all that it "
            f"had not met (ids.txt in its rearranged/{anew[-1]} has the order of the whole run)"
        )
    else:
        all_of = "all" if trained == chosen else f"{trained:,}"
        told = f"{all_of} of them trained on, in {count(steps, 'step')}"
    return {f"Training data, used by {named(name)}": f"{rows}; {told}"}


def _chosen(side: str, config: Mapping[str, Any]) -> str:
    """Which settings have chosen these rows of those that the source holds."""
    keys = [key for key in ("data.split", f"data.{side}_per_task") if config.get(key)]
    return f" by {' and '.join(keys)}" if keys else ""


def _kept(side: str, data: Mapping[str, Any], others: Mapping[str, int]) -> str:
    dropped, refused = len(data[f"{side}_dropped"]), len(data.get(f"{side}_refused", []))
    lost = {
        "that the chat template does not fit": refused,
        f"without an answer token within {_LIMITS[side]}": dropped - refused,
        **others,
    }
    told = [f"{rows:,} {why}" for why, rows in lost.items() if rows]
    rest = count(data[f"{side}_rows"] - dropped - sum(others.values()), "row")
    return f"{rest}; left out: {', '.join(told)}" if told else f"{rest}, all of them"


def _unchosen(made: Mapping[str, Any]) -> dict[str, int]:
    """Of the rows with an answer, those that no arrangement could choose, by the reason."""
    found = {}
    if "deduplicate" in made:
        why = f"near-duplicates of earlier ones (cosine {made['deduplicate']:g} or more)"
        found[why] = made["rows_left_out_as_duplicates"]
    if "rows_left_out_as_leaks" in made:
        found["that leak test rows"] = made["rows_left_out_as_leaks"]
    return found
