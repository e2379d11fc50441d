"""Other people's code that never ends is ended by a line, in Python and outside it."""

import os
import signal
import time
import warnings

import pytest
import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from zsg_jax.data.tokenize import jinja, rendered
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.runtime import bounded as limits
from zsg_jax.runtime.bounded import bounded
from zsg_jax.runtime.errors import UserError

LOOPS = "".join("{% for a in range(99999) %}" for _ in range(3)) + "{% endfor %}" * 3


@pytest.fixture
def ended(capfd):
    """Runs work in a forked process; gives its exit code and what it said."""

    def run(work):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX runs threads; what is run here asks no device
            child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(0)
        until = time.monotonic() + 30
        while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
            time.sleep(0.05)
        if not done[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("it did not end")
        return os.waitstatus_to_exitcode(done[1]), capfd.readouterr().err

    return run


def test_a_template_of_loops_within_loops_is_ended_and_named(ended, monkeypatch):
    monkeypatch.setattr(jinja, "SECONDS", 0.2)
    code, told = ended(lambda: ChatTemplate(LOOPS, "mine.jinja", {}).render([]))
    assert code == 1
    (line,) = told.splitlines()
    assert "mine.jinja: " in line


def tokenizer(expression):
    inner = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(expression), "isolated")
    return inner


def test_an_exponential_expression_is_ended_and_named(ended, monkeypatch):
    # Each stretch stays just below what the library itself allows.
    texts = [("a" * 20 + "b") * 500]
    monkeypatch.setattr(rendered, "SECONDS", 0.2)
    code, told = ended(lambda: rendered.encoded(tokenizer("(a+)+$"), texts))
    assert code == 1
    (line,) = told.splitlines()
    assert line.startswith("zsg_jax: tokenizer: ")
    assert "'aaa" in line


def test_what_the_library_itself_gives_up_is_a_users_error():
    with pytest.raises(UserError, match="tokenizer: fails on 1 text"):
        rendered.encoded(tokenizer("(a+)+$"), ["a" * 40 + "b"])


def test_a_process_that_only_was_stopped_goes_on(ended, monkeypatch):
    monkeypatch.setattr(limits, "_TICK", 0.1)

    def work():
        with bounded(lambda: "too long", 0.5):
            os.kill(os.getppid(), signal.SIGCHLD)  # nothing: the parent only waits
            if (child := os.fork()) == 0:
                os.kill(os.getppid(), signal.SIGSTOP)
                time.sleep(1)
                os.kill(os.getppid(), signal.SIGCONT)
                os._exit(0)
            os.waitpid(child, 0)

    assert ended(work) == (0, "")


def test_the_bound_is_over_with_the_work(monkeypatch):
    monkeypatch.setattr(limits, "_TICK", 0.02)
    for _ in range(3):
        with bounded(lambda: "too long", 0.1):
            time.sleep(0.05)
    with bounded(lambda: "too long", 60), bounded(lambda: "too long", 0.01):
        time.sleep(0.1)
    time.sleep(0.3)
