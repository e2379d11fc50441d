"""Whoever is killed between two operations on files leaves a whole old thing or a whole new one."""

import json
import os

import pytest

from zsg_jax.runtime import files
from zsg_jax.workflows import arrange_output
from zsg_jax.workflows.arrange_output import MADE, WHOLE, claimed

OPERATIONS = ("rename", "replace", "unlink", "link", "rmdir", "mkdir", "fsync", "open", "symlink")


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda opened: None)


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(params=["all", "no exchange", "no links"])
def dies_before(request, monkeypatch):
    """Runs work that ends before its n-th operation, and does none after it; whether it came to it.

    On a file system that can do all, one that cannot exchange two names, and one without links.
    """

    def run(number, work):
        left = number

        def counted(operation):
            def call(*given, **named):
                nonlocal left
                left -= 1
                if left <= 0:
                    raise Killed
                return operation(*given, **named)

            return call

        def no_link(*given, **named):
            raise PermissionError(1, "Operation not permitted")

        with monkeypatch.context() as patch:
            if request.param == "no exchange":
                patch.setattr(files, "_exchange", lambda *_: False)
            if request.param == "no links":
                patch.setattr(os, "link", no_link)
            for name in OPERATIONS:
                patch.setattr(os, name, counted(getattr(os, name)))
            patch.setattr(files, "_exchange", counted(files._exchange))
            try:
                work()
            except Killed:
                return True
        return False

    return run


def fill(folder, tag, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name == "arranged":
            fill(folder / name, tag, ["state.json", "data.arrow"])
        else:
            (folder / name).write_text(tag)
    if folder.name != "arranged":
        (folder / MADE).write_text(json.dumps([tag, sorted(names)]))


def told(folder):
    """The tag of the arrangement in a folder; None: there is none that is whole."""
    if not (folder / MADE).exists():
        return None
    tag, names = json.loads((folder / MADE).read_text())
    for name in names:
        parts = sorted((folder / name).iterdir()) if name == "arranged" else [folder / name]
        assert parts
        assert {part.read_text() for part in parts} == {tag}
    results = {path.name for path in folder.iterdir()} & set(arrange_output.RESULTS)
    assert results == {*names, MADE}
    return tag


OLD = ["order.npy", "turn.npy", "line.npy", "explain.html", "arranged", "leakage.jsonl"]


def arrange(root, tag, names):
    with claimed(root) as folder:
        fill(folder.new, tag, names)
        folder.publish()


@pytest.mark.parametrize("apart", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_an_arrangement_is_there_whole_at_every_moment(tmp_path, dies_before, apart):
    new = ["order.npy", "turn.npy", "line.npy", "arranged", "test_aimed.jsonl"]
    for number in range(1, 300, apart):
        root = tmp_path / str(number)
        arrange(root, "old", OLD)
        died = dies_before(number, lambda root=root: arrange(root, "new", new))
        assert {told(root / WHOLE), told(root)} & {"old", "new"}
        if not died:
            assert told(root) == "new"
            break
        # Whoever comes next finds one of the two in its place, and leaves nothing half done.
        with claimed(root) as folder:
            assert told(root) in ("old", "new")
            fill(folder.new, "third", OLD)
            folder.publish()
        assert {path.name for path in root.iterdir()} == {*OLD, MADE, ".lock"}
    assert number > 50


def test_a_link_in_the_output_is_replaced_and_what_it_means_is_left(tmp_path, dies_before):
    mine = tmp_path / "mine"
    fill(mine, "mine", ["order.npy"])
    for number in range(1, 300, 7):
        root = tmp_path / str(number)
        arrange(root, "old", [*OLD, "arranged.jsonl"])
        for name in ("arranged", "order.npy"):
            files.remove(root / name)
            (root / name).symlink_to(mine)
        died = dies_before(number, lambda root=root: arrange(root, "new", OLD))
        arrange(root, "third", OLD)
        assert told(root) == "third"
        assert told(mine) == "mine"
        if not died:
            break


def test_a_folder_is_replaced_whole(tmp_path, dies_before):
    def write(path, tag):
        with files.replacing(path) as partial:
            fill(partial, tag, ["a", "b"])

    for number in range(1, 100):
        path = tmp_path / str(number) / "folder"
        write(path, "old")
        died = dies_before(number, lambda path=path: write(path, "new"))
        beside = [one for one in path.parent.iterdir() if one.name.startswith("folder.old")]
        whole = path if path.exists() else beside[0]
        assert (whole / "a").read_text() == (whole / "b").read_text()
        if not died:
            break
        write(path, "third")
        assert (path / "a").read_text() == (path / "b").read_text() == "third"
        assert [one.name for one in path.parent.iterdir()] == ["folder"]
    assert number > 5
