"""The objects below one address of a bucket, by fsspec: gs:// by gcsfs, s3:// by s3fs."""

import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from zsg_jax.errors import UserError, first_line

# By scheme: the package that fsspec reads it with.
SCHEMES = {"gs": "gcsfs", "s3": "s3fs"}
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)")
# What tells one version of an object from the next, by the store that tells it.
_VERSIONS = ("generation", "ETag", "etag", "md5Hash", "LastModified", "mtime", "created")


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

    Every method raises `UserError` for what the store or the way to it refuses.
    """

    def __init__(self, address: Path | str, flag: str = "--workdir") -> None:
        """Takes gs://BUCKET/PATH or s3://BUCKET/PATH.

        Raises:
            UserError: another scheme, no bucket, or the scheme's package is not installed.
        """
        self.address = spelled(address)
        scheme, _, rest = self.address.partition("://")
        if scheme not in SCHEMES:
            raise UserError(
                f"{flag} {self.address}: is no folder, and of object stores only gs:// and s3:// "
                "are known; mount it (rclone mount) and give the folder where it is mounted"
            )
        if not rest:
            raise UserError(f"{flag} {self.address}: names no bucket; give {scheme}://BUCKET/NAME")
        try:
            importlib.import_module(SCHEMES[scheme])
        except ImportError:
            raise UserError(
                f"{flag} {self.address}: needs {SCHEMES[scheme]}, which is not installed; run "
                "pip install 'zsg_jax[bucket]'"
            ) from None
        self._root = rest
        with self._told("cannot be reached"):
            # Other processes and other libraries write there too: what was listed once is old.
            self._files = fsspec.filesystem(scheme, use_listings_cache=False)

    def list(self) -> dict[str, Object]:
        """Every object below the address."""
        with self._told("cannot be listed"):
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        objects = {}
        for path, facts in found.items():
            name = str(path).strip("/").removeprefix(self._root)
            # A slash at the end: a mount's way to keep an empty folder.
            if name.startswith("/") and not str(path).endswith("/") and facts["type"] == "file":
                objects[name[1:]] = _object(facts)
        return objects

    def read(self, name: str) -> bytes | None:
        """The content of an object; None: there is none."""
        with self._told(f"cannot be read ({name})"):
            try:
                return self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Puts an object in place, whole or not at all."""
        with self._told(f"cannot be written ({name})"):
            self._files.pipe_file(self._path(name), content)

    def upload(self, folder: Path, names: Collection[str]) -> None:
        """Copies files of `folder` to objects of the same names, each whole or not at all."""
        if names:
            with self._told("cannot be written"):
                files = [str(folder / name) for name in names]
                self._files.put(files, [self._path(name) for name in names])

    def download(self, folder: Path, names: Collection[str]) -> None:
        """Copies objects to files of the same names in `folder`, over those that are there."""
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if names:
            with self._told("cannot be read"):
                files = [str(folder / name) for name in names]
                self._files.get([self._path(name) for name in names], files)

    def delete(self, names: Collection[str]) -> None:
        """Deletes objects; those that are gone already are no mistake."""
        if names:
            with self._told("cannot be deleted"):
                present = [self._path(name) for name in names if name in self.list()]
                if present:
                    self._files.rm(present)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _told(self, what: str) -> AbstractContextManager[None]:
        return told(self.address, what)


@contextmanager
def told(address: Path | str, what: str) -> Iterator[None]:
    """Inside, every error is one line about `address`, whatever library it comes from.

    Raises:
        UserError: that line.
    """
    try:
        yield
    except UserError:
        raise
    # Each library, and each of those below it, has errors of its own.
    except Exception as error:
        # Orbax waits for the other processes meanwhile; that one is gone is not the bucket's fault.
        if "coordination" in str(error).lower():
            raise
        raise UserError(
            f"{address}: {what}: {type(error).__name__}: {first_line(error)}; see that the bucket "
            "is there and that this machine may use it, then the same command goes on"
        ) from error


def _object(facts: Mapping[str, Any]) -> Object:
    version = next((str(facts[key]) for key in _VERSIONS if facts.get(key) is not None), "")
    return Object(int(facts["size"]), f"{facts['size']} {version}", facts.get("md5Hash"))
