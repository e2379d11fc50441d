"""What the files and folders of a workdir are called."""

from pathlib import Path

CONFIG = "config.json"
DATA = "data.json"
# What the study trains, as a config.json: the folder it began with may go.
MODEL = "model.json"
LEAKAGE = "leakage.json"
# What its page shows of the test rows that are scored.
SHOWN = "shown.jsonl"
# How a workdir came to be: command, version and date.
BEGUN = "begun.json"
# In the folder of an arrangement, the page that shows what it does.
EXPLAINED = "explain.html"
# Beside the embeddings of both sides: the seconds they took, over all starts, and their bytes.
COST = "cost.json"
HUB = "hub.json"
# Here while a study was refused before anything was trained: another config may take the workdir.
REFUSED = "refused.json"
# Here while a study grows: the config before, until something is trained with the new one.
GROWS = "grows.json"
LOCK = ".lock"
TOKENIZER = "tokenizer"
TOKENS = "tokens"
SCRATCH = "scratch"
STUDIES = "studies"  # of a study that consists of others
ARRANGED = "arrangements"


def run_folder(workdir: Path, name: str, seed: int) -> Path:
    """Where the run of one arrangement and seed is kept."""
    return workdir / "runs" / f"{name}-seed{seed}"


def pretraining_folder(workdir: Path, seed: int) -> Path:
    """Where the pretraining of the weights of one seed is kept."""
    return workdir / "pretraining" / f"pretraining-seed{seed}"


def arrangement_folder(workdir: Path, name: str) -> Path:
    """Where an arrangement is kept."""
    return workdir / ARRANGED / name


def rearranged_folder(run: Path, step: int) -> Path:
    """What a run of this folder was arranged anew by after a step."""
    return run / "rearranged" / str(step)
