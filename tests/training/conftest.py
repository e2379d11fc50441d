"""What tests of meshes share: a child process with simulated devices."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def on_devices():
    """Runs code on so many simulated devices; gives what its last line, JSON, says, and stderr."""

    def run(count, code, *arguments):
        flags = f"--xla_force_host_platform_device_count={count}"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    return run
