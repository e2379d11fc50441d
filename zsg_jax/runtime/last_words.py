"""Where JAX ends a process since another is gone, its pages of C++ are one line.

`shorten` puts a small program of its own between what writes to file descriptor 2 outside Python
and standard error: nothing inside the process runs any more when JAX aborts it.
"""

import os
import re
import select
import signal
import subprocess
import sys

_FATAL = b"JAX distributed service detected fatal errors"
_BEGINS = re.compile(rb"^[EF]\d{4} .*(coordination_service|%s)" % _FATAL, re.M)
_SILENT = re.compile(rb"stopped sending heartbeats\):\s*([\d, /]+)")


def shorten(speaker: str) -> None:
    """From now on what libraries write to standard error goes through the program below.

    What Python writes does not, and a terminal stays one for it.

    Args:
        speaker: who says the line.
    """
    shown = os.dup(2)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, speaker],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C at a terminal is for the study
    ) as program:
        assert program.stdin is not None
        os.dup2(program.stdin.fileno(), 2)
        program.stdin.close()
        program.returncode = 0  # it ends when this process has, so nobody waits for it
    sys.stderr = open(shown, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115, to stay


def _line(words: bytes) -> bytes:
    silent = _SILENT.search(words)
    who = f"process {silent[1].decode().strip()}" if silent else "another process"
    return (
        f"{sys.argv[1]}: {who} is gone, or has stood still for too long; its own last line says "
        "why, and the same command goes on from what is kept\n"
    ).encode()


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    held = b""
    while True:
        ready = select.select([0], [], [], 2 if held and _FATAL not in held else None)[0]
        words = os.read(0, 1 << 16) if ready else b""
        begins = _BEGINS.search(words) if not held else None
        if begins:
            os.write(2, words[: begins.start()])
            held = words[begins.start() :]
        elif held and words:
            held += words
        else:
            os.write(2, _line(held) if _FATAL in held else held or words)
            held = b""
        if ready and not words:
            return


if __name__ == "__main__":
    _main()
