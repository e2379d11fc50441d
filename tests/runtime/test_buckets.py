"""Addresses, objects and errors of buckets, on fsspec's store in memory."""

import errno

import jax
import pytest

from zsg_jax.runtime import buckets as stores
from zsg_jax.runtime.buckets import Store, is_address, store_errors
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references


@pytest.fixture
def memory(monkeypatch):
    """A store that this process keeps, empty."""
    monkeypatch.setitem(stores.SCHEMES, "memory", "fsspec")
    made = Store("memory://bucket/a/study")
    made._files.store.clear()
    made._files.pseudo_dirs[:] = [""]
    return made


@pytest.mark.parametrize(
    ("given", "is_one"),
    [
        *((given, True) for given in ("gs://b/w", "s3://b", "hdfs://host:80/a b", "gs:/b/w")),
        *((given, False) for given in ("w", "/w", "~/w", "C:w", "a/gs://b", "./s3://b")),
    ],
)
def test_what_is_an_address(given, is_one):
    assert is_address(given) == is_one


ODD = ["run[1]", "a*", "a?", "a#1", "a//b", "../b"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("hdfs://host:80/w", r"--workdir hdfs://host:80/w: is no folder, and of object stores"),
        ("gcs://b/w", r"--workdir gcs://b/w: is no folder, .*; did you mean gs\?"),
        ("gs://", r"--workdir gs://: names no bucket; give gs://BUCKET/NAME"),
        ("s3:///", r"--workdir s3://: names no bucket"),
        *((f"gs://b/{odd}", r"--workdir gs://b/.*: give one without") for odd in ODD),
    ],
)
def test_an_address_that_is_none_is_one_line(given, line):
    with pytest.raises(UserError, match=f"^{line}"):
        Store(given)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(stores.SCHEMES, "gs", "no_such_package")
    with pytest.raises(
        UserError, match=r"needs no_such_package, .* pip install 'zsg_jax\[bucket\]'"
    ):
        Store("gs://b/w")


def test_a_path_that_lost_a_slash_is_the_same_place(memory):
    assert Store("memory:/bucket/a/study/").address == memory.address == "memory://bucket/a/study"


def test_files_go_up_and_come_down(memory, tmp_path):
    files = {"a.txt": b"a", "b/c d/é.bin": bytes(range(256)) * 5000, "b/empty": b""}
    for name, content in files.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(content)
    memory.upload(tmp_path / "up", list(files))
    # Its neighbours, of which one begins with the same name, are not below the address.
    Store("memory://bucket/a/study2").write("a.txt", b"other")
    Store("memory://bucket/a").write("study.txt", b"other")
    listed = memory.list()
    assert {name: one.size for name, one in listed.items()} == {
        name: len(content) for name, content in files.items()
    }
    memory.download(tmp_path / "down", list(files))
    assert {name: (tmp_path / "down" / name).read_bytes() for name in files} == files
    memory.write("a.txt", b"b")
    assert memory.read("a.txt") == b"b"
    assert memory.list()["a.txt"].version != listed["a.txt"].version
    memory.delete(["a.txt", "b/empty"])
    assert memory.list().keys() == {"b/c d/é.bin"}
    assert memory.read("a.txt") is None
    for nothing in (memory.delete, lambda names: memory.upload(tmp_path, names)):
        nothing([])


def test_a_store_that_fails_is_one_line(memory, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError("403: no such leave\nand more")

    monkeypatch.setattr(type(memory._files), "find", refuse)
    line = r"^memory://bucket/a/study: cannot be listed: PermissionError: 403: no such leave; see"
    with pytest.raises(UserError, match=line):
        memory.list()


@pytest.mark.parametrize(
    "text", ["Barrier failed: tensorflow.CoordinationServiceError", "Gloo: closed by peer"]
)
def test_another_process_that_is_gone_is_not_the_buckets_fault(text, monkeypatch):
    with pytest.raises(UserError), store_errors("gs://b", "cannot be written"):
        raise RuntimeError(text)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError), store_errors("gs://b", "cannot be written"):
        raise RuntimeError(text)
    with pytest.raises(UserError), store_errors("gs://gloo-coordination", "cannot be written"):
        raise RuntimeError("no way to gs://gloo-coordination")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError("bucket"), 1),
        (PermissionError("403"), 1),
        (RuntimeError("Unable to locate credentials"), 1),
        (OSError("Forbidden"), 1),
        (ConnectionResetError("by peer"), 75),
        (RuntimeError("HttpError 503: back off"), 75),
        (TimeoutError(), 75),
    ],
)
def test_what_may_pass_ends_with_another_code(error, code):
    with pytest.raises(UserError) as caught, store_errors("gs://b", "cannot be read"):
        raise error
    assert caught.value.code == code
    assert str(caught.value).startswith("gs://b: cannot be read: ")


def test_a_full_disk_is_no_fault_of_the_bucket():
    with pytest.raises(OSError, match="No space left"), store_errors("gs://b", "cannot be read"):
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/file")


def test_google_must_know_who_asks(monkeypatch):
    gcsfs = pytest.importorskip("gcsfs")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setattr(gcsfs.credentials.GoogleCredentials, "connect", lambda self, method: None)
    gcsfs.GCSFileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"no credentials of Google .* gcloud auth application-def"):
        Store("gs://bucket/study")


def test_names_that_lead_out_of_a_folder_are_refused(memory, monkeypatch):
    out = {"/bucket/a/study/../../b": {"type": "file", "size": 1}}
    monkeypatch.setattr(type(memory._files), "find", lambda *args, **options: out)
    with pytest.raises(UserError, match=r"study/\.\./\.\./b: is no path for a file"):
        memory.list()
