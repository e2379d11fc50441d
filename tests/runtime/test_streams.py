"""Streams that are closed or gone, and whatever else is outside: silence, or one line."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.data.schemas.read import tell_skipped
from zsg_jax.runtime import cli, foreign, streams
from zsg_jax.runtime.errors import UserError

ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def test_with_streams_that_are_closed_or_gone_all_is_done(tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROW * 3)
    command = (
        f"({sys.executable} -m zsg_jax.arrange --train rows.jsonl --test rows.jsonl --output out"
        " 2>&- <&-; echo $? > code) | true"
    )
    # A reader that has gone before the last line is written.
    root = str(Path(__file__).parents[2])
    subprocess.run(command, shell=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root})
    assert (tmp_path / "code").read_text() == "0\n"
    assert (tmp_path / "out" / "arranged.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_what_cannot_be_shown_is_a_line(flag):
    command = f"{sys.executable} -m zsg_jax.main {flag}"
    root = Path(__file__).parents[2]
    full = subprocess.run(f"{command} > /dev/full", shell=True, cwd=root, capture_output=True)
    (line,) = full.stderr.decode().splitlines()
    assert full.returncode == 1
    assert line.startswith("zsg_jax: standard output: No space left")
    gone = subprocess.run(f"{command} | true", shell=True, cwd=root, capture_output=True)
    assert (gone.returncode, gone.stderr) == (0, b"")


def test_a_path_is_told_where_the_working_folder_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    assert streams.near(tmp_path / "a") == "../a"
    (tmp_path / "gone").rmdir()
    assert streams.near(tmp_path / "a") == str(tmp_path / "a")


def test_an_interrupt_while_libraries_are_imported_is_a_line(tmp_path):
    # A shell's background job, as which tests may run, is deaf to Ctrl-C.
    hears = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(
        [sys.executable, "-m", "zsg_jax.main", "--config=tmta", "--workdir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    signal.signal(signal.SIGINT, hears)
    maps = Path(f"/proc/{child.pid}/maps")
    until = time.monotonic() + 60
    while "jaxlib" not in maps.read_text() and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    # On a slow machine it may have come as far as to tell more before.
    line = told.splitlines()[-1]
    assert child.returncode == 130
    assert line.startswith("zsg_jax: stopped; ")
    assert "Traceback" not in told


def test_what_names_no_device_is_a_line(commands, tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROW)
    flags = ["--train", "rows.jsonl", "--test", "rows.jsonl", "--output", "out"]
    ((code, _, told),) = commands("zsg_jax.arrange", flags, cwd=tmp_path, JAX_PLATFORMS="abacus")
    assert code == 1
    assert told.splitlines()[-1].startswith("zsg_jax: ")
    assert "JAX_PLATFORMS=abacus names what is not here" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/a"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk: No space left"),
        (OSError("18432 requested and 992 written"), "disk: no space left"),
        (PermissionError(errno.EACCES, "Permission denied", b"/a\xff"), "Permission denied; mend"),
        (ValueError("UNKNOWN: [a] b: No space left on device\nmore\n" * 99), "disk: No space left"),
        (MemoryError(), "memory is used up"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "not UTF-8"),
        (type("PanicException", (BaseException,), {})("index out of bounds"), "index out of bou"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_outside_is_told_in_a_line(capfd, error, part, wrapped):
    def main(argv):
        if not wrapped:
            raise error
        try:
            raise error
        except BaseException as inner:
            raise RuntimeError("a library's own words\n" * 50) from inner

    with pytest.raises(SystemExit) as ended:
        cli.guard(main)([])
    assert ended.value.code == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert part in line


def test_a_name_with_line_breaks_and_colours_is_told_in_one_line(capfd, tmp_path):
    path = tmp_path / "a\nb\x1b[31m\r.jsonl"
    path.write_text('{"id": "1", ' + ROW[1:] + "{\n")
    (scratch := tmp_path / "scratch").mkdir()
    options = ReadOptions(scratch, bad_rows="skip")
    with open_dataset(path, options) as dataset:
        tell_skipped(dataset.skipped, 1, "")
    with pytest.raises(SystemExit):
        cli.guard(lambda argv: open_dataset(path, ReadOptions(scratch)))([])
    lines = capfd.readouterr().err.split("\n")
    assert sum("a\\nb\\x1b[31m\\r.jsonl" in line for line in lines) == len(lines) - 1 == 4


def test_a_fault_of_ours_is_no_line():
    def main(argv):
        raise KeyError("ours")

    with pytest.raises(KeyError):
        cli.guard(main)([])


def test_reading_leaves_what_is_known_and_interrupts(tmp_path):
    for kind in (KeyboardInterrupt, SystemExit):
        with pytest.raises(kind), foreign.reading(tmp_path):
            raise kind
    with pytest.raises(UserError, match=r"^known$"), foreign.reading(tmp_path):
        raise UserError("known")
    with pytest.raises(UserError, match="ZeroDivisionError"), foreign.reading(tmp_path):
        1 / 0  # noqa: B018


def test_what_is_hushed_comes_back(capfd):
    with streams.hushed(), streams.hushed():
        os.write(2, b"a panic")
        streams.tell("a line")
    os.write(2, b"after")
    assert capfd.readouterr().err == "a line\nafter"


def test_threads_that_hush_at_the_same_time_leave_standard_error_as_it_was(capfd):
    def work():
        for _ in range(2000):
            with streams.hushed():
                os.write(2, b"a panic")

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work) for _ in range(4)]:
            done.result()
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
