"""The version that pages tell: with the commit of a clone, or of what pip has installed."""

import json
import subprocess
from importlib.metadata import version

import pytest

from zsg_jax.runtime import version as module


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What is told of a package whose version.py lies in a folder."""
    path = tmp_path / "zsg_jax" / "runtime" / "version.py"
    path.parent.mkdir(parents=True)
    path.write_text("as committed")
    monkeypatch.setattr(module, "__file__", str(path))
    module.told_version.cache_clear()
    yield module.told_version
    module.told_version.cache_clear()


def git(folder, *arguments):
    named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", "-C", folder, *named, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_clone_tells_its_commit_and_whether_it_was_changed(told, tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    expected = f"{version('zsg_jax')}, commit {git(tmp_path, 'rev-parse', 'HEAD')[:12]}"
    assert told() == expected
    (tmp_path / "zsg_jax" / "runtime" / "version.py").write_text("changed")
    module.told_version.cache_clear()
    assert told() == f"{expected} with changes"


@pytest.mark.parametrize(
    ("direct_url", "more"),
    [
        (json.dumps({"vcs_info": {"commit_id": "0123456789abcdef"}}), ", commit 0123456789ab"),
        (json.dumps({"dir_info": {"editable": True}}), ""),
        ("no JSON", ""),
        (None, ""),
    ],
)
def test_what_pip_has_installed_tells_its_commit(told, monkeypatch, direct_url, more):
    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return direct_url

    monkeypatch.setattr(module, "distribution", lambda name: Installed())
    assert told() == version("zsg_jax") + more
