"""Where a study's workdir lies, and what its processes may do there; on a store in memory."""

from pathlib import Path

import pytest

from zsg_jax.runtime import buckets as stores
from zsg_jax.runtime.buckets import Store
from zsg_jax.runtime.errors import Unavailable, UserError
from zsg_jax.runtime.mirror import CLAIM
from zsg_jax.runtime.processes import keep
from zsg_jax.workflows import study_workdir
from zsg_jax.workflows.study_workdir import Workdir


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """An address of a store that this process keeps, to which orbax cannot write."""
    monkeypatch.setitem(stores.SCHEMES, "memory", "fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"memory://bucket/{tmp_path.name}"
    Store(address)._files.store.clear()
    return address


def test_a_folder_is_itself(tmp_path):
    workdir = Workdir(tmp_path)
    assert (workdir.folder, workdir.address) == (tmp_path, None)
    assert workdir.checkpoints(tmp_path / "runs/a/checkpoints") == tmp_path / "runs/a/checkpoints"
    with workdir.shared():
        workdir.begin()
        keep()
    assert list(tmp_path.iterdir()) == []


def test_orbax_writes_checkpoints_where_it_can(memory, monkeypatch):
    here = Workdir(memory)
    assert (
        here.checkpoints(here.folder / "runs/a/checkpoints") == here.folder / "runs/a/checkpoints"
    )
    monkeypatch.setattr(study_workdir, "_ORBAX", ("memory://",))
    there = f"{memory}/runs/a/checkpoints"
    assert here.checkpoints(here.folder / "runs/a/checkpoints") == there


@pytest.mark.parametrize("writes", [False, True])
def test_what_the_bucket_gets(writes, memory, monkeypatch):
    monkeypatch.setattr(study_workdir, "_ORBAX", ("memory://",) if writes else ())
    workdir = Workdir(memory)
    names = ("config.json", ".lock", "scratch/a", "runs/a/checkpoints/1/x", "runs/a/metrics.jsonl")
    with workdir.shared():
        workdir.begin()
        for name in names:
            (workdir.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (workdir.folder / name).write_text("{}")
        keep()
    kept = {"config.json", "runs/a/metrics.jsonl"} | (set() if writes else {names[3]})
    assert {name for name in Store(memory).list() if not name.startswith(".zsg_jax")} == kept


def test_a_study_that_fails_leaves_what_it_made_and_names_the_address(memory):
    workdir = Workdir(memory)

    def fail(name, error):
        with workdir.shared():
            workdir.begin()
            (workdir.folder / name).write_text("1")
            raise error

    mistake = UserError(f"{workdir.folder}/runs/a: is damaged; delete {workdir.folder}/runs")
    with pytest.raises(UserError, match=rf"^{memory}/runs/a: is damaged; delete {memory}/runs$"):
        fail("config.json", mistake)
    assert Store(memory).read("config.json") == b"1"
    with pytest.raises(KeyboardInterrupt):
        fail("more", KeyboardInterrupt)
    assert Store(memory).read("more") == b"1"


def test_a_bucket_that_is_gone_at_the_end_is_named_once(memory, monkeypatch, capsys):
    workdir = Workdir(memory)

    def gone(*arguments):
        raise UserError("cannot be reached")

    def stopped():
        with workdir.shared():
            workdir.begin()
            (workdir.folder / "config.json").write_text("{}")
            monkeypatch.setattr(Store, "read", gone)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert capsys.readouterr().err.count("cannot be reached") == 1


def test_a_study_that_ends_gives_the_address_free(memory):
    for _ in range(2):
        workdir = Workdir(memory)
        with workdir.shared():
            workdir.begin()
            (workdir.folder / "config.json").write_text("{}")
            assert CLAIM in Store(memory).list()
        assert Store(memory).list().keys() == {"config.json"}


def test_a_failure_that_may_pass_stays_one(memory):
    workdir = Workdir(memory)
    with pytest.raises(Unavailable, match=rf"^{memory}: later$"), workdir.shared():
        raise Unavailable(f"{workdir.folder}: later")


def test_machines_that_share_no_disk_need_a_store_that_orbax_knows(memory, monkeypatch):
    monkeypatch.setattr(study_workdir, "of_all", lambda name: ["a", "b", "a"])
    workdir = Workdir(memory)
    told = rf"^--workdir {memory}: the processes of a, b cannot write one checkpoint there"
    with pytest.raises(UserError, match=told), workdir.shared():
        pass
    monkeypatch.setattr(study_workdir, "_ORBAX", ("memory://",))
    with workdir.shared():
        pass


def test_a_cache_that_cannot_be_written_is_named(memory, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    workdir = Workdir(memory)
    told = rf"^{workdir.folder}: cannot be made \(Not a directory\), .* for {memory}; set XDG_CACHE"
    with pytest.raises(UserError, match=told), workdir.shared():
        pass
    assert not Path("memory:").exists()
