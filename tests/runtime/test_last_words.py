"""Of what JAX says when it ends a process, one line is left; all else is passed on as it is."""

import subprocess
import sys

CODE = """
import os, sys
from zsg_jax.runtime.last_words import shorten
shorten("zsg_jax: process 1")
for words in sys.argv[1:]:
    os.write(2, words.encode())
print("python's own", file=sys.stderr)
os.abort()
"""
ERROR = "E1129 16:01:40.49 5042 coordination_service.cc:1549] Use error polling to propagate\n"
SILENT = "UNAVAILABLE: tasks are unhealthy (stopped sending heartbeats):\n1\nThe tasks have\n"
FATAL = (
    "F1129 16:02:09.75 5200 client.h:80] Terminating process because the JAX distributed service "
    "detected fatal errors. This most likely\n\nRPC: /xla\n*** Check failure stack trace: ***\n"
    "    @     0x7f0f00640634  absl::Flush()\n"
)


def said(*words):
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == -6
    assert "python's own\n" in done.stderr
    return done.stderr.replace("python's own\n", "")


def test_an_end_by_jax_is_one_line():
    for words, who in (
        ([ERROR, SILENT, FATAL, "Fatal Python error: Aborted\n"], "process 1 is gone"),
        ([FATAL], "another process is gone"),
    ):
        (line,) = said(*words).splitlines()
        assert line.startswith(f"zsg_jax: process 1: {who}")


def test_all_else_is_passed_on():
    for words in (["W1 some warning\n", "Segmentation fault\n"], [ERROR, SILENT], ["no end"], []):
        assert said(*words) == "".join(words)
    assert said("before\n" + FATAL).startswith("before\nzsg_jax: process 1: ")
