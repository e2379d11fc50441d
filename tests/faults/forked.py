"""Runs a small study again and again: short of disk, short of open files, or killed at random.

Takes one of these words, a folder and more in JSON from the command line; prints JSON.
"""

import ctypes
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import tensorboardX  # noqa: F401, for all that are forked from here

from zsg_jax import main
from zsg_jax.report import build, page  # noqa: F401
from zsg_jax.similarity.encoders import hashing  # noqa: F401
from zsg_jax.workflows import study_orders

RUN = "runs/tmta-nft-seed0"
CONFIG = f"--config={Path(__file__).with_name('small.py')}"
_NEW_USERS, _NEW_MOUNTS, _REMOUNT = 0x10000000, 0x00020000, 32


def command(workdir, flags, *, before=lambda: None, killed_after=None):
    """The code and the errors of the command in a process of its own."""
    errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, closed by its last user
    child = os.fork()
    if child == 0:
        os.dup2(errors.fileno(), 2)
        os.chdir(Path(__file__).parents[2])
        page._draw = lambda *given: []  # pictures take as long as all else
        study_orders.explainer = lambda *given: lambda *made: None
        sys.argv = [main.__file__, CONFIG, f"--workdir={workdir}", *flags]
        code = 0
        try:
            before()
            main.run()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    until = time.monotonic() + (killed_after or 0)
    ended, status = os.waitpid(child, os.WNOHANG if killed_after else 0)
    while not ended:
        time.sleep(0.02)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        ended, status = os.waitpid(child, os.WNOHANG)
    code = os.waitstatus_to_exitcode(status)
    errors.seek(0)
    return code, errors.read()


def records(workdir):
    """All records that a run keeps, by their file."""
    return {path.name: path.read_text() for path in sorted((workdir / RUN).glob("*.jsonl"))}


def _own_mounts():
    """Whether this process may mount what no other one sees."""
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(_NEW_USERS | _NEW_MOUNTS):
        return False
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        Path("/proc/self", name).write_text(content)
    return True


def _mount(folder, kilobytes, flags=0):
    options = f"size={kilobytes}k".encode()
    if ctypes.CDLL(None).mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options):
        raise SystemExit(77)


def disk(folder, sizes, flags):
    """For each size of a disk in kilobytes the command on it, and again once there is room."""
    if not _own_mounts():
        raise SystemExit(77)
    told = []
    for size in sizes:
        small = folder / str(size)
        small.mkdir()
        _mount(small, size)
        first = command(small / "w", flags)
        _mount(small, 1 << 16, _REMOUNT)
        told.append([first, command(small / "w", flags), records(small / "w")])
    return told


def files(folder, limits, flags):
    """For each limit of open files the command under it, and again without one."""

    def limited(limit):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))

    told = []
    for limit in limits:
        workdir = folder / str(limit)
        first = command(workdir, flags, before=lambda limit=limit: limited(limit))
        told.append([first, command(workdir, flags), records(workdir)])
    return told


def soak(folder, kills, flags):
    """The command killed so often at random; the records of each workdir that came to its end."""
    begun = time.monotonic()
    whole = command(folder / "whole", flags)
    seconds, draw = time.monotonic() - begun, random.Random(0)
    told, left = [[whole, records(folder / "whole")]], kills
    while left:
        workdir = folder / str(len(told))
        while left:
            begun = time.monotonic()
            code, _ = ended = command(workdir, flags, killed_after=draw.uniform(0, seconds))
            if code != -signal.SIGKILL:
                # The first run may have had more to wait for than others.
                seconds = min(seconds, time.monotonic() - begun)
                break
            left -= 1
        else:
            ended = command(workdir, flags)
        told.append([ended, records(workdir)])
    return told


def run():
    """What the command line asks for."""
    word, folder, *given = sys.argv[1:]
    print(json.dumps(globals()[word](Path(folder), *map(json.loads, given))))
