"""A folder and a bucket stay equal, whatever is stopped; machines are folders of their own here."""

import json
import shutil
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zsg_jax.runtime import buckets
from zsg_jax.runtime.buckets import Store
from zsg_jax.runtime.errors import Unavailable, UserError
from zsg_jax.runtime.mirror import CLAIM, Mirror

ADDRESS = "memory://bucket/study"
MARKER = "config.json"
CALLS = ("list", "read", "write", "upload", "download", "delete")


class Killed(BaseException):
    """What ends a process in the middle."""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes the mirror of a machine, its folder by a name; the bucket is empty."""
    monkeypatch.setitem(buckets.SCHEMES, "memory", "fsspec")
    clear()
    made = []

    def make(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        made.append(Mirror(ADDRESS, marker=MARKER, leave=lambda name: name == ".lock"))
        return made[-1]

    yield make
    for mirror in made:
        mirror._ended.set()


def clear():
    files = Store(ADDRESS)._files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def begun(mirror):
    mirror.begin()
    return mirror


def write(mirror, **files):
    for name, content in files.items():
        path = mirror.folder / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def files(mirror):
    return {
        path.relative_to(mirror.folder).as_posix(): path.read_text()
        for path in sorted(mirror.folder.rglob("*"))
        if path.is_file() and ".zsg_jax" not in path.parts
    }


def objects():
    store = Store(ADDRESS)
    return {n: store.read(n).decode() for n in store.list() if not n.startswith(".zsg_jax")}


def test_what_is_new_changed_and_gone_reaches_the_other_machine(machine):
    first = begun(machine("first"))
    write(first, config_json="{}", runs__a__metrics="1", runs__a__old="x")
    # What is half written, and what is of this machine alone.
    write(first, **{"runs/a/b.partial": "half", ".lock": ""})
    first.push()
    assert objects() == {"config.json": "{}", "runs/a/metrics": "1", "runs/a/old": "x"}
    write(first, runs__a__metrics="12", runs__b__c="new")
    (first.folder / "runs/a/old").unlink()
    first.push()
    expected = {"config.json": "{}", "runs/a/metrics": "12", "runs/b/c": "new"}
    assert objects() == expected
    first.end()
    second = begun(machine("second"))
    assert files(second) == expected
    assert second.folder != first.folder
    assert files(begun(machine("first"))) == expected | {"runs/a/b.partial": "half", ".lock": ""}


def test_machines_of_one_study_see_one_anothers_files(machine):
    first = begun(machine("first"))
    second = machine("second")
    write(second, left_over="of another study")
    write(first, config_json="{}", shared="1")
    for mirror in (first, second):
        mirror.push()
    for mirror in (first, second):
        mirror.pull()
    assert files(first) == files(second) == {"config.json": "{}", "shared": "1"}
    write(first, a="of the first", shared="12")
    write(second, b="of the second")
    for mirror in (second, first):
        mirror.push()
    for mirror in (second, first):
        mirror.pull()
    expected = {"config.json": "{}", "shared": "12", "a": "of the first", "b": "of the second"}
    assert files(first) == files(second) == objects() == expected


def test_nothing_new_asks_the_bucket_nothing(machine, monkeypatch):
    first = begun(machine("first"))
    write(first, config_json="{}")
    first.push()
    for name in CALLS:
        monkeypatch.setattr(Store, name, None)
    first.push()


def test_objects_of_somebody_else_are_refused_and_left_alone(machine):
    Store(ADDRESS).write("thesis.tex", b"years of work")
    with pytest.raises(UserError, match=rf"^--workdir {ADDRESS}: holds objects but no config.json"):
        machine("first").begin()
    assert objects() == {"thesis.tex": "years of work"}


def test_a_workdir_that_was_copied_there_is_taken(machine):
    """By another program, so that nothing tells who began it."""
    for name in (MARKER, "runs/a/metrics"):
        Store(ADDRESS).write(name, b"{}")
    assert files(begun(machine("first"))) == {MARKER: "{}", "runs/a/metrics": "{}"}


@pytest.mark.parametrize(
    ("host", "pid", "silent", "refused"),
    [
        ("elsewhere", 1, 5, True),
        ("elsewhere", 1, 3600, False),
        (None, 1, 3600, True),  # the first process of this machine is alive
        (None, 2**22 + 1, 5, False),
    ],
)
def test_a_second_writer_is_refused_until_the_first_is_gone(
    machine, monkeypatch, host, pid, silent, refused
):
    first = begun(machine("first"))
    write(first, config_json="{}")
    first.push()
    claim = json.loads(Store(ADDRESS).read(CLAIM))
    claim |= {"host": host or claim["host"], "pid": pid, "time": time.time() - silent}
    Store(ADDRESS).write(CLAIM, json.dumps(claim).encode())
    if refused:
        with pytest.raises(Unavailable, match=rf"is at work there.*delete {ADDRESS}/{CLAIM}"):
            machine("second").begin()
        Store(ADDRESS).delete([CLAIM])
    assert files(begun(machine("second"))) == {MARKER: "{}"}
    # Whoever was taken over uploads nothing more.
    write(first, runs__a="old")
    for act in (first.push, first.check):
        with pytest.raises(UserError, match="has gone on with it; this process ends"):
            act()
    first.end()
    assert objects() == {MARKER: "{}"}
    assert Store(ADDRESS).read(CLAIM) is not None


def study(mirror, made):
    """As a study works: shards that a manifest lists, rows, and checkpoints of which two are kept.

    Args:
        made: gets what had to be computed.
    """
    mirror.begin()
    folder = mirror.folder
    write(mirror, config_json="{}")
    listed = (
        json.loads((folder / "shards.json").read_text()) if "shards.json" in files(mirror) else []
    )
    for shard in range(len(listed), 3):
        made.append(f"shard {shard}")
        listed.append(shard)
        write(mirror, **{f"shards/{shard}": f"content of {shard}"})
        write(mirror, shards_json=json.dumps(listed))
        mirror.push()
    checkpoints = [int(n.split("/")[1]) for n in files(mirror) if n.endswith("manifest.json")]
    last = max(checkpoints, default=0)
    rows = files(mirror).get("metrics", "").splitlines()[:last]
    assert len(rows) == last
    for step in range(last + 1, 7):
        made.append(f"step {step}")
        rows.append(f"row {step}")
        write(mirror, metrics="\n".join(rows))
        if step % 2 == 0:
            mirror.push()
            write(mirror, **{f"checkpoints/{step}/state": f"state {step}"})
            write(mirror, **{f"checkpoints/{step}/manifest.json": f"of {step}"})
            keep_two(folder)
            mirror.push()
    keep_two(folder)  # a kill before the deletion there brings an old one back
    write(mirror, report="done")
    mirror.push()
    mirror.end()


def keep_two(folder):
    for old in sorted((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))[:-2]:
        shutil.rmtree(old)


def kept():
    """What the bucket holds whole: as `made` names it."""
    there = objects()
    shards = [f"shard {number}" for number in json.loads(there.get("shards.json", "[]"))]
    steps = [int(name.split("/")[1]) for name in there if name.endswith("manifest.json")]
    return {*shards, *(f"step {step}" for step in range(1, max(steps, default=0) + 1))}


@given(kills=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=6))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_study_that_is_killed_loses_nothing_that_was_uploaded(machine, monkeypatch, kills):
    clear()
    study(machine("undisturbed"), [])
    expected = objects()
    clear()
    for number, (calls, elsewhere) in enumerate([*kills, (None, True)]):
        before, made = kept(), []
        mirror = machine(f"{number}" if elsewhere else "one")
        with monkeypatch.context() as patch:
            left = [calls]
            for name in CALLS:
                patch.setattr(Store, name, dying(getattr(Store, name), left))
            try:
                study(mirror, made)
            except Killed:
                mirror._ended.set()
        assert before.isdisjoint(made)
    assert files(mirror) == objects() == expected


def dying(method, left):
    """A call that kills its process before the one that `left` counts down to."""

    def call(*args, **kwargs):
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        return method(*args, **kwargs)

    return call
