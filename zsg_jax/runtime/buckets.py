"""The objects below one address of a bucket, by fsspec: gs:// by gcsfs, s3:// by s3fs."""

import hashlib
import importlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import fsspec

from zsg_jax.runtime.errors import FULL, Unavailable, UserError, did_you_mean, first_line
from zsg_jax.runtime.files import at_home

# By scheme: the package that fsspec reads it with.
SCHEMES = {"gs": "gcsfs", "s3": "s3fs"}
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)")
# What tells one version of an object from the next: Google's, Amazon's, of fsspec's memory.
_VERSIONS = ("generation", "ETag", "created")
# Waiting again would not help.
_LASTING = re.compile(
    r"credential|token|forbidden|denied|not exist|not found|invalid|40[0134]", re.I
)
# What orbax says where another process is gone, which is not the bucket's fault.
_LOST = re.compile(r"coordination|barrier|gloo|nccl|heartbeat|socket closed|closed by peer", re.I)
# Of gcsfs's own kinds of buckets and of TensorFlow's paths, tests cover those that are asked for
# here; both are read when the packages are imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
os.environ.setdefault("EPATH_USE_TF", "false")
# What is listed is of now, for orbax too: other processes and other libraries write there.
for _scheme in ("gcs", *SCHEMES):
    fsspec.config.conf.setdefault(_scheme, {}).setdefault("use_listings_cache", False)
# Files at once: each may be held in parts of 50 MB, ten of them.
fsspec.config.conf.setdefault("gather_batch_size", 4)


class Object(NamedTuple):
    """One object as a listing tells of it.

    Attributes:
        size: bytes.
        version: differs from that of any other content the name has had.
        md5: base64 of the digest that Google's store keeps of an object written in one piece;
            None: of any other.
    """

    size: int
    version: str
    md5: str | None


def is_address(given: Path | str) -> bool:
    """Whether `given` is gs://…, s3://… or anything else that is no folder of this machine."""
    return _ADDRESS.match(str(given)) is not None


def spelled(address: Path | str) -> str:
    """An address in full, of which a `Path` may have eaten a slash."""
    match = _ADDRESS.match(str(address))
    return f"{match[1].lower()}://{match[2].strip('/')}" if match else str(address)


class Store:
    """What lies below one address; names are paths below it, with slashes.

    Every method raises `UserError` for what the store or the way to it refuses, and `Unavailable`
    for what may pass by itself.
    """

    def __init__(self, address: Path | str, flag: str = "--workdir") -> None:
        """Takes gs://BUCKET/PATH or s3://BUCKET/PATH.

        Raises:
            UserError: another scheme, no bucket, the scheme's package is not installed, or Google
                would not know who asks.
        """
        self.address = spelled(address)
        scheme, _, rest = self.address.partition("://")
        if scheme not in SCHEMES:
            raise UserError(
                f"{flag} {self.address}: is no folder, and of object stores only gs:// and s3:// "
                "are known; mount it (rclone mount) and give the folder"
                + did_you_mean(scheme, SCHEMES)
            )
        if not rest:
            raise UserError(f"{flag} {self.address}: names no bucket; give {scheme}://BUCKET/NAME")
        if re.search(r"[*?\[\]#]", rest) or {"", ".", ".."} & set(rest.split("/")):
            raise UserError(
                f"{flag} {self.address}: give one without * ? [ ] # and parts such as .. or //"
            )
        # A line of ours says what went wrong; theirs hold a trace for every try.
        for library in (SCHEMES[scheme], "google.auth", "aiobotocore", "botocore"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        try:
            importlib.import_module(SCHEMES[scheme])
        except ImportError:
            raise UserError(
                f"{flag} {self.address}: needs {SCHEMES[scheme]}, which is not installed; run "
                "pip install 'zsg_jax[bucket]'"
            ) from None
        self._root = rest
        with self._errors("cannot be reached"):
            self._files = fsspec.filesystem(scheme)
        if scheme == "gs" and "STORAGE_EMULATOR_HOST" not in os.environ:
            known = getattr(self._files, "credentials", None)
            if known is not None and known.credentials is None:
                self._files.clear_instance_cache()
                raise UserError(
                    f"{flag} {self.address}: no credentials of Google are at hand; run gcloud auth "
                    "application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
                )

    def list(self) -> dict[str, Object]:
        """Every object below the address."""
        with self._errors("cannot be listed"):
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        objects = {}
        for path, facts in found.items():
            name = str(path).strip("/").removeprefix(self._root)
            # A slash at the end: a mount's way to keep an empty folder.
            if not name.startswith("/") or str(path).endswith("/") or facts["type"] != "file":
                continue
            if {"", ".", ".."} & set(name[1:].split("/")):
                raise UserError(f"{self.address}{name}: is no path for a file; delete the object")
            version = next((str(facts[key]) for key in _VERSIONS if key in facts), "")
            size = int(facts["size"])
            objects[name[1:]] = Object(size, f"{size} {version}", facts.get("md5Hash"))
        return objects

    def read(self, name: str) -> bytes | None:
        """The content of an object; None: there is none."""
        with self._errors(f"cannot be read ({name})"):
            try:
                return self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def digest(self, name: str, kind: str) -> bytes:
        """The digest of an object's content, a part of which is held at a time."""
        with self._errors(f"cannot be read ({name})"), self._files.open(self._path(name)) as file:
            return hashlib.file_digest(file, kind).digest()

    def write(self, name: str, content: bytes) -> None:
        """Puts an object in place, whole or not at all."""
        with self._errors(f"cannot be written ({name})"):
            self._files.pipe_file(self._path(name), content)

    def upload(self, folder: Path, names: Collection[str]) -> None:
        """Copies files of `folder` to objects of the same names, each whole or not at all."""
        if names:
            with self._errors("cannot be written"):
                files = [str(folder / name) for name in names]
                self._files.put(files, [self._path(name) for name in names])

    def download(self, folder: Path, names: Collection[str]) -> None:
        """Copies objects to files of the same names in `folder`, over those that are there."""
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if names:
            with self._errors("cannot be read"):
                files = [str(folder / name) for name in names]
                self._files.get([self._path(name) for name in names], files)

    def delete(self, names: Collection[str]) -> None:
        """Deletes objects; those that are gone already are no mistake."""
        if names:
            with self._errors("cannot be deleted"), suppress(FileNotFoundError):
                self._files.rm([self._path(name) for name in names])

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return store_errors(self.address, what)


@contextmanager
def store_errors(address: Path | str, what: str) -> Iterator[None]:
    """Inside, every error is one line about `address`, whatever library it comes from.

    Raises:
        Unavailable: that line, of what may pass by itself.
        UserError: that line, of anything else.
    """
    try:
        yield
    except UserError:
        raise
    # Each library, and each of those below it, has errors of its own.
    except Exception as error:
        text = f"{type(error).__name__}: {first_line(error)}"
        lost = _LOST.search(str(error).replace(str(address), ""))
        import jax

        if lost and jax.distributed.is_initialized():
            raise
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        lasting = isinstance(error, FileNotFoundError | PermissionError | ValueError | TypeError)
        if lasting or _LASTING.search(text):
            raise UserError(
                f"{address}: {what}: {text}; see that the bucket is there and that this machine "
                "may use it, then the same command goes on"
            ) from error
        raise Unavailable(f"{address}: {what}: {text}; the same command goes on later") from error


@contextmanager
def naming(address: str, folder: Path | str) -> Iterator[None]:
    """Inside, a mistake in `folder`, where a copy of what lies at `address` is, names the latter.

    Raises:
        UserError: the mistake, of the kind it was.
    """
    try:
        yield
    except UserError as error:
        raise type(error)(str(error).replace(str(folder), address)) from error


def cache() -> Path:
    """The folder of this machine for what can be had again from elsewhere."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else at_home("~/.cache")).absolute() / "zsg_jax"


@contextmanager
def fetched(
    address: Path | str, wanted: Callable[[Collection[str]], Collection[str]]
) -> Iterator[Path]:
    """A folder with objects below an address, in this machine's cache, removed at the end.

    Args:
        address: gs://… or s3://….
        wanted: of the names of all, those to fetch; of the others the folders alone are there.

    Raises:
        UserError: as `Store`; one of what is done inside names the address, not the folder.
    """
    store = Store(address)
    names = list(store.list())
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix="fetched-") as temporary:
        folder = Path(temporary)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        store.download(folder, wanted(names))
        with naming(store.address, folder):
            yield folder
