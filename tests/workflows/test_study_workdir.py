"""Where a study's workdir lies, and what its processes may do there; on a store in memory."""

from pathlib import Path

import pytest

from zsg_jax.runtime import buckets as stores
from zsg_jax.runtime.buckets import Store
from zsg_jax.runtime.errors import Unavailable, UserError
from zsg_jax.runtime.processes import keep
from zsg_jax.workflows import study_place as places
from zsg_jax.workflows.study_place import Place


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """An address of a store that this process keeps, to which orbax cannot write."""
    monkeypatch.setitem(stores.SCHEMES, "memory", "fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"memory://bucket/{tmp_path.name}"
    Store(address)._files.store.clear()
    return address


def test_a_folder_is_itself(tmp_path):
    place = Place(tmp_path)
    assert (place.folder, place.address) == (tmp_path, None)
    assert place.checkpoints(tmp_path / "runs/a/checkpoints") == tmp_path / "runs/a/checkpoints"
    with place.shared():
        place.take()
        keep()
    assert list(tmp_path.iterdir()) == []


def test_orbax_writes_checkpoints_where_it_can(memory, monkeypatch):
    here = Place(memory)
    assert (
        here.checkpoints(here.folder / "runs/a/checkpoints") == here.folder / "runs/a/checkpoints"
    )
    monkeypatch.setattr(places, "_ORBAX", ("memory://",))
    there = f"{memory}/runs/a/checkpoints"
    assert here.checkpoints(here.folder / "runs/a/checkpoints") == there


@pytest.mark.parametrize("writes", [False, True])
def test_what_the_bucket_gets(writes, memory, monkeypatch):
    monkeypatch.setattr(places, "_ORBAX", ("memory://",) if writes else ())
    place = Place(memory)
    names = ("config.json", ".lock", "scratch/a", "runs/a/checkpoints/1/x", "runs/a/metrics.jsonl")
    with place.shared():
        place.take()
        for name in names:
            (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (place.folder / name).write_text("{}")
        keep()
    kept = {"config.json", "runs/a/metrics.jsonl"} | (set() if writes else {names[3]})
    assert {name for name in Store(memory).list() if not name.startswith(".zsg")} == kept


def test_a_study_that_fails_leaves_what_it_made_and_names_the_address(memory):
    place = Place(memory)

    def fail(name, error):
        with place.shared():
            place.take()
            (place.folder / name).write_text("1")
            raise error

    mistake = UserError(f"{place.folder}/runs/a: is damaged; delete {place.folder}/runs")
    with pytest.raises(UserError, match=rf"^{memory}/runs/a: is damaged; delete {memory}/runs$"):
        fail("config.json", mistake)
    assert Store(memory).read("config.json") == b"1"
    with pytest.raises(KeyboardInterrupt):
        fail("more", KeyboardInterrupt)
    assert Store(memory).read("more") == b"1"


@pytest.mark.parametrize(
    ("error", "told"), [(UserError("cannot be reached"), False), (KeyboardInterrupt(), True)]
)
def test_a_bucket_that_is_gone_at_the_end_is_told_once(error, told, memory, monkeypatch, capsys):
    place = Place(memory)

    def fail(*arguments):
        raise UserError("cannot be reached")

    def run(error):
        with place.shared():
            place.take()
            (place.folder / "config.json").write_text("{}")
            monkeypatch.setattr(Store, "read", fail)
            raise error

    with pytest.raises(type(error)):
        run(error)
    assert ("cannot be reached" in capsys.readouterr().err) == told


def test_a_failure_that_may_pass_stays_one(memory):
    place = Place(memory)
    with pytest.raises(Unavailable, match=rf"^{memory}: later$"), place.shared():
        raise Unavailable(f"{place.folder}: later")


def test_machines_that_share_no_disk_need_a_store_that_orbax_knows(memory, monkeypatch):
    monkeypatch.setattr(places, "of_all", lambda name: ["a", "b", "a"])
    place = Place(memory)
    told = rf"^--workdir {memory}: the processes of a, b cannot write one checkpoint there"
    with pytest.raises(UserError, match=told), place.shared():
        pass
    monkeypatch.setattr(places, "_ORBAX", ("memory://",))
    with place.shared():
        pass


def test_a_cache_that_cannot_be_written_is_named(memory, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    place = Place(memory)
    told = rf"^{place.folder}: cannot be made \(Not a directory\), .* for {memory}; set XDG_CACHE"
    with pytest.raises(UserError, match=told), place.shared():
        pass
    assert not Path("memory:").exists()
