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
from zsg_jax.runtime.processes import keep
from zsg_jax.workdir import location
from zsg_jax.workdir.layout import CONFIG
from zsg_jax.workdir.location import CLAIM, open_workdir

ADDRESS = "memory://bucket/study"
CALLS = ("list", "read", "write", "upload", "download", "delete")


class Killed(BaseException):
    """What ends a process in the middle."""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes the workdir of a machine, its folder by a name; the bucket is empty."""
    monkeypatch.setitem(buckets.SCHEMES, "memory", "fsspec")
    clear()
    made = []

    def make(name="first"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        made.append(open_workdir(ADDRESS))
        return made[-1]

    yield make
    for workdir in made:
        workdir._ended.set()


def clear():
    files = Store(ADDRESS)._files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def begun(workdir):
    workdir.begin()
    return workdir


def write(workdir, **files):
    for name, content in files.items():
        path = workdir.folder / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def files(workdir):
    return {
        path.relative_to(workdir.folder).as_posix(): path.read_text()
        for path in sorted(workdir.folder.rglob("*"))
        if path.is_file() and ".zsg_jax" not in path.parts
    }


def objects():
    store = Store(ADDRESS)
    return {n: store.read(n).decode() for n in store.list() if not n.startswith(".zsg_jax")}


def test_a_folder_is_itself(tmp_path):
    workdir = open_workdir(tmp_path)
    assert (workdir.folder, workdir.address) == (tmp_path, None)
    assert workdir.checkpoints(tmp_path / "runs/a/checkpoints") == tmp_path / "runs/a/checkpoints"
    with workdir.shared():
        workdir.begin()
        keep()
    assert list(tmp_path.iterdir()) == []


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
    for workdir in (first, second):
        workdir.push()
    for workdir in (first, second):
        workdir.pull()
    assert files(first) == files(second) == {"config.json": "{}", "shared": "1"}
    write(first, a="of the first", shared="12")
    write(second, b="of the second")
    for workdir in (second, first):
        workdir.push()
    for workdir in (second, first):
        workdir.pull()
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
    for name in (CONFIG, "runs/a/metrics"):
        Store(ADDRESS).write(name, b"{}")
    assert files(begun(machine("first"))) == {CONFIG: "{}", "runs/a/metrics": "{}"}


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
    assert files(begun(machine("second"))) == {CONFIG: "{}"}
    # Whoever was taken over uploads nothing more.
    write(first, runs__a="old")
    for act in (first.push, first.check):
        with pytest.raises(UserError, match="has gone on with it; this process ends"):
            act()
    first.end()
    assert objects() == {CONFIG: "{}"}
    assert Store(ADDRESS).read(CLAIM) is not None


@pytest.mark.parametrize("orbax", [False, True])
def test_what_the_bucket_gets(machine, monkeypatch, orbax):
    monkeypatch.setattr(location, "_ORBAX", ("memory://",) if orbax else ())
    workdir = machine()
    there = workdir.checkpoints(workdir.folder / "runs/a/checkpoints")
    assert there == (f"{ADDRESS}/runs/a/checkpoints" if orbax else workdir.folder / there)
    names = ("config.json", ".lock", "scratch/a", "runs/a/checkpoints/1/x", "runs/a/metrics.jsonl")
    with workdir.shared():
        workdir.begin()
        assert CLAIM in Store(ADDRESS).list()
        write(workdir, **dict.fromkeys(names, "{}"))
        keep()
        assert objects().keys() == {names[0], names[4]} | (set() if orbax else {names[3]})
    # At its end it gives the address free.
    assert CLAIM not in Store(ADDRESS).list()


def test_a_study_that_fails_leaves_what_it_made_and_names_the_address(machine):
    workdir = machine()

    def fail(name, error):
        with workdir.shared():
            workdir.begin()
            write(workdir, **{name: "1"})
            raise error

    for kind in (UserError, Unavailable):
        mistake = kind(f"{workdir.folder}/runs/a: is damaged; delete {workdir.folder}/runs")
        with pytest.raises(kind, match=rf"^{ADDRESS}/runs/a: is damaged; delete {ADDRESS}/runs$"):
            fail("config.json", mistake)
    with pytest.raises(KeyboardInterrupt):
        fail("more", KeyboardInterrupt)
    assert objects() == {"config.json": "1", "more": "1"}


def test_a_bucket_that_is_gone_at_the_end_is_named_once(machine, monkeypatch, capsys):
    workdir = machine()

    def gone(*arguments):
        raise UserError("cannot be reached")

    def stopped():
        with workdir.shared():
            workdir.begin()
            write(workdir, config_json="{}")
            monkeypatch.setattr(Store, "read", gone)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert capsys.readouterr().err.count("cannot be reached") == 1


def test_machines_that_share_no_disk_need_a_store_that_orbax_knows(machine, monkeypatch):
    monkeypatch.setattr(location, "of_all", lambda name: ["a", "b", "a"])
    with pytest.raises(UserError, match="the processes of a, b cannot"), machine().shared():
        pass
    monkeypatch.setattr(location, "_ORBAX", ("memory://",))
    with machine().shared():
        pass


def test_a_cache_that_cannot_be_written_is_named(machine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made .* set XDG_"), machine("file").shared():
        pass


def study(workdir, made):
    """As a study works: shards that a manifest lists, rows, and checkpoints of which two are kept.

    Args:
        made: gets what had to be computed.
    """
    workdir.begin()
    folder = workdir.folder
    write(workdir, config_json="{}")
    listed = (
        json.loads((folder / "shards.json").read_text()) if "shards.json" in files(workdir) else []
    )
    for shard in range(len(listed), 3):
        made.append(f"shard {shard}")
        listed.append(shard)
        write(workdir, **{f"shards/{shard}": f"content of {shard}"})
        write(workdir, shards_json=json.dumps(listed))
        workdir.push()
    checkpoints = [int(n.split("/")[1]) for n in files(workdir) if n.endswith("manifest.json")]
    last = max(checkpoints, default=0)
    rows = files(workdir).get("metrics", "").splitlines()[:last]
    assert len(rows) == last
    for step in range(last + 1, 7):
        made.append(f"step {step}")
        rows.append(f"row {step}")
        write(workdir, metrics="\n".join(rows))
        if step % 2 == 0:
            workdir.push()
            write(workdir, **{f"checkpoints/{step}/state": f"state {step}"})
            write(workdir, **{f"checkpoints/{step}/manifest.json": f"of {step}"})
            keep_two(folder)
            workdir.push()
    keep_two(folder)  # a kill before the deletion there brings an old one back
    write(workdir, report="done")
    workdir.push()
    workdir.end()


def keep_two(folder):
    for old in sorted((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))[:-2]:
        shutil.rmtree(old)


def kept():
    """What the bucket holds whole: as `made` names it."""
    there = objects()
    shards = [f"shard {number}" for number in json.loads(there.get("shards.json", "[]"))]
    steps = [int(name.split("/")[1]) for name in there if name.endswith("manifest.json")]
    return {*shards, *(f"step {step}" for step in range(1, max(steps, default=0) + 1))}


@given(kills=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=4))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_study_that_is_killed_loses_nothing_that_was_uploaded(machine, monkeypatch, kills):
    clear()
    study(machine("undisturbed"), [])
    expected = objects()
    clear()
    for number, (calls, elsewhere) in enumerate([*kills, (None, True)]):
        before, made = kept(), []
        workdir = machine(f"{number}" if elsewhere else "one")
        with monkeypatch.context() as patch:
            left = [calls]
            for name in CALLS:
                patch.setattr(Store, name, dying(getattr(Store, name), left))
            try:
                study(workdir, made)
            except Killed:
                workdir._ended.set()
        assert before.isdisjoint(made)
    assert files(workdir) == objects() == expected


def dying(method, left):
    """A call that kills its process before the one that `left` counts down to."""

    def call(*args, **kwargs):
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        return method(*args, **kwargs)

    return call


def test_a_folder_behind_a_tilde_is_the_user_s(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_workdir("~/study").folder == tmp_path / "study"
