"""What processes of one study agree on before they begin; two real ones on loopback."""

import os
import socket
import subprocess
import sys

import pytest

CHILD = """
import json, sys
import jax
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.processes import same_everywhere

address, number, values = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(number))
try:
    same_everywhere(json.loads(values))
    print("same")
except UserError as error:
    print("told:", error)
"""


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ('{"steps": 10, "data": [1, 2]}', "same"),
        (
            '{"steps": 12, "more": "a longer text", "data": [1, 2]}',
            "told: process 1 was given more='a longer text', process 0 more=None; "
            "steps=12, process 0 steps=10; give all processes the same",
        ),
    ],
    ids=["same", "other"],
)
def test_processes_that_were_given_different_settings_are_told(second, told):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, address, str(number), values],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for number, values in enumerate(['{"data": [1, 2], "steps": 10}', second])
    ]
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        assert out.splitlines()[-1] == told
