"""A folder and a bucket stay equal, whatever is stopped; machines are folders of their own here."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from zsg_jax.runtime import buckets as stores
from zsg_jax.runtime import mirror as mirrors
from zsg_jax.runtime.buckets import Store
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.mirror import OWN, Mirror

ADDRESS = "memory://bucket/study"
MARKER = "config.json"


class Killed(BaseException):
    """What ends a process in the middle."""


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An empty bucket, and what makes the mirror of a machine, opened."""
    monkeypatch.setitem(stores.SCHEMES, "memory", "fsspec")
    clear()

    def machine(name, *, opened=True):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        made = Mirror(ADDRESS, marker=MARKER, leave=lambda name: name == ".lock")
        if opened:
            made.open()
        return made

    return machine


def clear():
    files = Store(ADDRESS)._files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def write(mirror, **files):
    for name, content in files.items():
        path = mirror.folder / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def files(mirror):
    return {
        path.relative_to(mirror.folder).as_posix(): path.read_text()
        for path in sorted(mirror.folder.rglob("*"))
        if path.is_file() and OWN not in path.parts
    }


def objects():
    store = Store(ADDRESS)
    return {n: store.read(n).decode() for n in store.list() if not n.startswith(OWN)}


def test_what_is_new_changed_and_gone_reaches_the_other_machine(bucket):
    first = bucket("first")
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
    second = bucket("second")
    assert files(second) == expected
    assert second.folder != first.folder


def test_nothing_new_asks_the_bucket_nothing(bucket, monkeypatch):
    first = bucket("first")
    write(first, config_json="{}")
    first.push()
    for name in ("list", "read", "write", "upload", "delete"):
        monkeypatch.setattr(Store, name, None)
    first.push()


def test_objects_of_somebody_else_are_refused_and_left_alone(bucket):
    Store(ADDRESS).write("thesis.tex", b"years of work")
    with pytest.raises(UserError, match=rf"^--workdir {ADDRESS}: holds objects but no config.json"):
        bucket("first")
    assert objects() == {"thesis.tex": "years of work"}


def test_a_workdir_that_was_copied_there_is_taken(bucket):
    """By another program, so that nothing tells who began it."""
    for name in (MARKER, "runs/a/metrics"):
        Store(ADDRESS).write(name, b"{}")
    assert files(bucket("first")) == {MARKER: "{}", "runs/a/metrics": "{}"}


def test_a_machine_that_comes_back_keeps_what_it_had_not_uploaded(bucket):
    write(bucket("first"), config_json="{}")
    again = bucket("first")
    assert files(again) == {MARKER: "{}"}
    again.push()
    write(again, embeddings__0="hours of work", config_json="{ }")
    assert files(bucket("first"))["embeddings/0"] == "hours of work"
    # Until another machine goes on: then the bucket is right.
    second = bucket("second")
    write(second, embeddings__1="others")
    second.push()
    assert files(bucket("first")) == {MARKER: "{}", "embeddings/1": "others"}


def test_a_study_that_another_machine_went_on_with_uploads_nothing(bucket):
    first = bucket("first")
    write(first, config_json="{}")
    first.push()
    bucket("second")
    write(first, runs__a="old")
    for act in (first.push, first.check):
        with pytest.raises(UserError, match=r"has gone on with it since .*; this process ends"):
            act()
    assert objects() == {MARKER: "{}"}


def test_one_that_is_taken_over_in_the_middle_of_an_upload_leaves_the_others_list(
    bucket, monkeypatch
):
    first = bucket("first")
    write(first, config_json="{}")
    first.push()
    write(first, runs__a="1", runs__b="2")
    upload = Store.upload

    def taken_over(self, folder, names):
        monkeypatch.setattr(Store, "upload", upload)
        second = bucket("second")
        upload(self, folder, names)
        write(second, runs__c="3", runs__d="4")
        monkeypatch.setattr(Store, "upload", half)
        with pytest.raises(Killed):
            second.push()

    def half(self, folder, names):
        upload(self, folder, sorted(names)[:1])
        raise Killed

    monkeypatch.setattr(Store, "upload", taken_over)
    with pytest.raises(UserError, match="has gone on with it"):
        first.push()
    monkeypatch.setattr(Store, "upload", upload)
    # What the first had uploaded is whole; of the second's, there is nothing.
    assert files(bucket("third")) == {MARKER: "{}", "runs/a": "1", "runs/b": "2"}


def test_a_cache_that_was_cleaned_comes_back_from_the_bucket(bucket):
    first = bucket("first")
    write(first, config_json="{}", runs__a="1", runs__b="2")
    first.push()
    (first.folder / "runs/a").unlink()
    assert files(bucket("first")) == {MARKER: "{}", "runs/a": "1", "runs/b": "2"}
    shutil.rmtree(first.folder)
    assert files(bucket("first")) == {MARKER: "{}", "runs/a": "1", "runs/b": "2"}


def test_what_a_user_deletes_in_the_bucket_is_gone_here(bucket):
    first = bucket("first")
    write(first, config_json="{}", runs__a__b="1", runs__c="2")
    first.push()
    Store(ADDRESS).delete(["runs/a/b"])
    again = bucket("first")
    assert files(again) == {MARKER: "{}", "runs/c": "2"}
    assert not (again.folder / "runs/a").exists()


def test_an_upload_that_was_killed_is_undone_elsewhere_and_done_again_here(bucket, monkeypatch):
    first = bucket("first")
    write(first, config_json="{}", runs__metrics="1")
    first.push()
    write(first, arrangements__a__order="order", arrangements__a__facts="facts", runs__metrics="12")
    upload = Store.upload

    def half(self, folder, names):
        upload(self, folder, sorted(names)[:2])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, "upload", half)
        with pytest.raises(Killed):
            first.push()
    assert "arrangements/a/facts" in objects()
    copied = dict(Store(ADDRESS)._files.store)
    # The same machine has it all, and brings it up.
    again = bucket("first")
    again.push()
    assert objects() == files(again)
    assert objects()["arrangements/a/order"] == "order"
    # Another has what was whole before, and no part of what was not.
    clear()
    Store(ADDRESS)._files.store.update(copied)
    second = bucket("second")
    assert files(second) == objects() == {MARKER: "{}", "runs/metrics": "1"}


def test_a_start_that_was_killed_has_lost_nothing(bucket):
    first = bucket("first")
    write(first, config_json="{}", runs__a="1")
    first.push()
    write(first, runs__a="12", runs__b="hours")
    for calls in range(12):
        killed = _die_after(calls, bucket("first", opened=False).open)
        assert files(first) == {MARKER: "{}", "runs/a": "12", "runs/b": "hours"}
    assert not killed
    # Also where another had gone on, and the start that sees it is killed: nothing is mixed.
    second = bucket("second")
    write(second, runs__c="3")
    second.push()
    for calls in range(12):
        killed = _die_after(calls, bucket("first", opened=False).open)
    assert not killed
    assert files(bucket("first")) == {MARKER: "{}", "runs/a": "1", "runs/c": "3"}


def test_a_machine_beside_the_first_keeps_what_it_had_not_uploaded(bucket, monkeypatch):
    one, other = bucket("first"), bucket("second", opened=False)
    write(one, config_json="{}")
    one.push()
    with monkeypatch.context() as patch:
        patch.setattr(mirrors, "is_first", lambda: False)
        other.pull()
        write(other, embeddings__1="hours")
    # Both start again.
    one, other = bucket("first"), bucket("second", opened=False)
    with monkeypatch.context() as patch:
        patch.setattr(mirrors, "is_first", lambda: False)
        other.pull()
        other.push()
    assert objects() == {MARKER: "{}", "embeddings/1": "hours"}


def test_a_damaged_record_is_no_record(bucket, capsys):
    first = bucket("first")
    write(first, config_json="{}", runs__a="1")
    first.push()
    (first.folder / OWN / "record.json").write_text("{")
    assert files(bucket("first")) == {MARKER: "{}", "runs/a": "1"}
    assert "record.json: is damaged" in capsys.readouterr().err


def test_uploads_that_nobody_waits_for_are_few(bucket, monkeypatch):
    first = bucket("first")
    now = mirrors.time.monotonic() + 1000
    monkeypatch.setattr(mirrors.time, "monotonic", lambda: now)
    write(first, config_json="{}")
    first.push(sparing=True)
    write(first, a="1")
    first.push(sparing=True)
    assert objects() == {MARKER: "{}"}
    now += 60
    first.push(sparing=True)
    assert objects() == {MARKER: "{}", "a": "1"}


def test_a_download_that_was_killed_is_done_again(bucket, monkeypatch):
    first = bucket("first")
    write(first, config_json="{}", a="1" * 100, b="2", c="3")
    first.push()
    download = Store.download

    def half(self, folder, names):
        download(self, folder, names[:2])
        (folder / names[0]).write_text("1" * 50)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, "download", half)
        with pytest.raises(Killed):
            bucket("second")
    assert files(bucket("second")) == {MARKER: "{}", "a": "1" * 100, "b": "2", "c": "3"}


def test_several_processes_of_two_machines_see_all_that_was_made(bucket, monkeypatch):
    one = bucket("first")
    beside = bucket("first", opened=False)
    other = bucket("second", opened=False)
    beside.pushes = False
    write(one, config_json="{}")
    # As where processes wait: all push, then all but those of one alone pull.
    for mirror in (one, beside, other):
        mirror.push()
    for mirror in (beside, other):
        monkeypatch.setattr(mirrors, "is_first", lambda: False)
        mirror.pull()
    assert files(other) == {MARKER: "{}"}
    write(one, embeddings__0="a", scratch="x")
    write(other, embeddings__1="b")
    for mirror in (one, beside, other):
        mirror.push()
    for mirror in (one, beside, other):
        mirror.pull()
    (one.folder / "scratch").unlink()
    assert files(one)["embeddings/1"] == files(beside)["embeddings/1"] == "b"
    one.push()
    other.pull()
    assert files(other) == {MARKER: "{}", "embeddings/0": "a", "embeddings/1": "b"}


NAMES = ("a", "b/c", "b/d", "e/f/g")
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, 9)),
        st.tuples(st.just("remove"), st.sampled_from(NAMES), st.just(0)),
        st.tuples(st.just("push"), st.just(""), st.just(0)),
        # The number: after how many calls of the store the process is killed.
        st.tuples(st.just("die"), st.just("stay"), st.integers(0, 6)),
        st.tuples(st.just("die"), st.just("move"), st.integers(0, 6)),
        st.tuples(st.just("move"), st.just(""), st.integers(0, 1)),
        st.tuples(st.just("clean"), st.just(""), st.just(0)),
    ),
    max_size=14,
)


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ACTIONS)
@example([("write", "a", 0), ("die", "stay", 4)])
def test_whoever_goes_on_has_every_file_whole_and_nothing_that_was_not_kept(
    bucket, tmp_path, actions
):
    """Against plain dicts: the files as of the last push that ended, and of one that died."""
    clear()
    for name in ("0", "1"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    at, mirror = "0", bucket("0")
    write(mirror, config_json="{}")
    mirror.push()
    kept = {MARKER: "{}"}  # as of the last push
    for count, (action, name, number) in enumerate(actions):
        path = mirror.folder / name
        if action == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{number} {count}" + "." * count)
        elif action == "remove":
            path.unlink(missing_ok=True)
        elif action == "push":
            mirror.push()
            kept = files(mirror)
            assert objects() == kept
        elif action == "clean":
            shutil.rmtree(mirror.folder)
            mirror = bucket(at)
            assert files(mirror) == objects()
            kept = files(mirror)
        elif action == "die":
            mine = files(mirror)
            _die_after(number, mirror.push)
            if name == "move":
                at = "1" if at == "0" else "0"
                mirror = bucket(at)
                found = files(mirror)
                assert found == objects()
                _check_stopped(found, before=kept, after=mine)
                kept = found
                continue
            # It may be killed at its next start too, and at the one after.
            for calls in range(number, number + 3):
                _die_after(calls, bucket(at, opened=False).open)
            mirror = bucket(at)
            # This machine has lost nothing, whatever had got to the bucket.
            found = files(mirror)
            assert {n: found.get(n) for n in mine} == mine
            mirror.push()
            kept = found
            assert objects() == found
        else:
            before, at = objects(), str(number)
            fresh = bucket(at)
            if fresh.folder != mirror.folder:
                assert files(fresh) == objects() == before
                assert before == kept
            mirror = fresh
            mirror.push()
            kept = files(mirror)


def _check_stopped(found, *, before, after):
    """Of a push that died, a new machine finds all files or none that it had not had before."""
    assert all(content in (before.get(n), after.get(n)) for n, content in found.items())
    if not found.keys() <= before.keys():
        assert {n: found.get(n) for n in after} == after


CALLS = ("list", "read", "write", "upload", "download", "delete")


def _die_after(calls, work):
    """Kills `work` before its call number `calls` of the store; whether that came."""
    left = calls
    originals = {name: getattr(Store, name) for name in CALLS}

    def counted(name):
        def call(self, *args):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return originals[name](self, *args)

        return call

    try:
        for name in originals:
            setattr(Store, name, counted(name))
        work()
    except Killed:
        return True
    finally:
        for name, original in originals.items():
            setattr(Store, name, original)
    return False


def test_the_folder_is_the_users_to_find(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = Mirror("memory://bucket/a b/study", marker=MARKER, leave=lambda name: False).folder
    assert folder.parent == Path(tmp_path, ".cache/zsg_jax/workdirs")
    assert folder.name.startswith("memory-bucket-a-b-study-")
    other = Mirror("memory://bucket/a-b/study", marker=MARKER, leave=lambda name: False).folder
    assert other != folder


def test_the_session_tells_who_works_there(bucket):
    bucket("first")
    told = json.loads(Store(ADDRESS).read(f"{OWN}/session.json"))
    assert told.keys() == {"session", "host", "since", "before"}
