"""Plain names beside the names of methods, as the pages show them."""

import re
from collections.abc import Sequence

_PLAIN = {
    "tmta-min": "nearest first",
    "tmta-nft": "nearest first",
    "tmta-fft": "farthest first",
    "tmta-rt": "shuffled",
    "tmta-max": "farthest rows first, of each turn",
    "tmta-min-max": "nearest first, then the farthest",
    "tmta-max-min": "farthest first, then the nearest",
    "tmta-random": "near and far rows shuffled",
    "targets": "each test row's nearest in turn",
    "coverage": "the best covering of the test rows first",
    "random": "shuffled, whatever the test rows are",
    "round-robin": "one row of each task in turn",
    "cluster": "task after task",
}
_BY = {
    "wsd": "Weighted Similarity Distance",
    "min": "the nearest test row",
    "max": "the farthest test row",
    "avg": "the average over the test rows",
    "ot": "optimal transport",
    "ot-sinkhorn": "Sinkhorn's transport",
    "coarse": "whole tasks",
}
_FORMS = {
    r"tmta-turns-(\d+)-(\d+)": "turns {0} to below {1}",
    r"polar-(\d+)(?:-shuffled)?": "{0} of each task, near and far",
    r"uniform-(\d+)(?:-shuffled)?": "one in {0} of each task",
    r"diverse-(\d+)": "{0} that stand for the pool",
    r"mmr-(\d+)": "near and unlike one another, {0} % nearness",
    r"tasks-(\d+)": "rows of {0} tasks",
    r"score-ascending:([\w.-]+)": "the least {0} first",
    r"score-descending:([\w.-]+)": "the most {0} first",
}
_AGAIN = {
    "folds": "in {0} interleaved parts",
    "zigzag": "in {0} interleaved parts, to and fro",
    "first": "the first {0} alone",
    "window": "every {0} rows shuffled",
    "stages": "in {0} stages, half of each from the whole",
}


def named(method: str) -> str:
    """The name of a method, behind it in brackets its plain name, if it has one."""
    plain = plain_name(method)
    return f"{method} ({plain})" if plain else method


def space_words(space: str) -> str:
    """What a space compares rows by, in a few words."""
    kind, _, rest = space.partition(":")
    of = "the model before it is tuned" if rest.partition(",")[0] == "start" else "a model"
    known = {
        "hashing": "hashed n-grams",
        "states": f"hidden states of {of}",
        "gradients": f"gradients of the loss of {of}",
    }
    return known.get(kind, "a sentence encoder")


def listed(names: Sequence[str]) -> str:
    """The names, at least one, with commas and an "and"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plain_name(method: str) -> str:
    """A few plain words for the order that a method makes; "" for a name that is none's.

    Before the method may stand that of its study, "STUDY: METHOD", and behind it its seed.
    """
    name = method.rpartition(": ")[2].partition("@")[0]
    base, plus, suffix = name.rpartition("+")
    if plus:
        how, _, number = suffix.rpartition("-")
        told = plain_name(base), _AGAIN.get(how, "").format(number)
        return ", ".join(told) if all(told) else ""
    if name in _PLAIN:
        return _PLAIN[name]
    by, _, end = name.rpartition("-")
    if by in _BY and end in ("nft", "fft"):
        return f"{'nearest' if end == 'nft' else 'farthest'} first, by {_BY[by]}"
    for form, words in _FORMS.items():
        if found := re.fullmatch(form, name):
            return words.format(*found.groups())
    return ""
