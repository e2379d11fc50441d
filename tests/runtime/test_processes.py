"""What processes of one study agree on before they begin; two real ones on loopback."""

import json
import os
import subprocess
import sys

CHILD = """
import json, sys
import jax
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.processes import by_first, once, same_everywhere

address, number, several = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(number))
for values in json.loads(several):
    try:
        same_everywhere(values)
        print("same")
    except UserError as error:
        print(error)
print(by_first(lambda: [int(number), "seen"]))
try:
    once(f"place {number}", lambda: None)
except UserError as error:
    print(error)
"""


def test_processes_that_were_given_different_settings_are_told(free_port):
    address, same = f"127.0.0.1:{free_port()}", {"data": [1, 2], "steps": 10}
    other = {"steps": 12, "more": "a longer text", "data": [1, 2]}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, address, str(number), json.dumps(several)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for number, several in enumerate([[same, same], [same, other]])
    ]
    for child in children:
        out, err = child.communicate(timeout=100)
        assert child.returncode == 0, err
        *_, first, second, looked, met = out.splitlines()
        assert [first, second] == [
            "same",
            "process 1 was given more='a longer text', process 0 more=None; "
            "steps=12, process 0 steps=10; give all processes the same",
        ]
        assert looked == "[0, 'seen']"
        assert "different ways: this one has come to 'place " in met
