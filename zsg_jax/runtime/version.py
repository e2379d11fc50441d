"""Which version of this package is at work, and of which commit, where that can be known."""

import hashlib
import json
import subprocess
from functools import cache
from importlib.metadata import distribution, version
from pathlib import Path

_SHOWN = 12  # digits of a commit
_SECONDS = 10


@cache
def told_version() -> str:
    """As "0.1.0, commit 0123456789ab", and "with changes" where not all of a clone is committed."""
    number, commit = version("zsg_jax"), _of_clone() or _of_installation()
    return f"{number}, commit {commit}" if commit else number


@cache
def source_digest() -> str:
    """SHA-256, in hex, of the package's Python files and their names."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        for part in (path.relative_to(root).as_posix().encode(), path.read_bytes()):
            digest.update(b"%d " % len(part) + part)
    return digest.hexdigest()


def _of_clone() -> str:
    """The commit of the clone that is run from, "" where it is none or there is no git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)

    try:
        commit = git("rev-parse", "HEAD").stdout.strip()[:_SHOWN]
        changed = bool(commit) and git("diff", "--quiet", "HEAD").returncode == 1
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit} with changes" if changed else commit


def _of_installation() -> str:
    """The commit that pip has installed from a git address, "" where it came from elsewhere."""
    try:
        told = json.loads(distribution("zsg_jax").read_text("direct_url.json") or "{}")
        return str(told.get("vcs_info", {}).get("commit_id", ""))[:_SHOWN]
    except (OSError, ValueError, AttributeError):
        return ""
