"""The built wheel in an environment and a folder of its own, as a user has it."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A study of seconds: one arrangement, one seed, two steps of a small pool.
SMALL = [
    "--config.seeds=(0,)",
    "--config.arrangement.methods=('tmta-nft',)",
    "--config.data.rewrites.rules=4",
    "--config.data.rewrites.samples=2",
    "--config.data.rewrites.test_rules=2",
    "--config.training.steps=2",
    "--config.model.pretraining.steps=0",
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of commands of an environment that holds the wheel; a build without network."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    pytest.importorskip("pip", reason="pip is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    # What it depends on is lent by this environment; its own editable zsg_jax is not.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@pytest.mark.ci
@pytest.mark.slow
def test_the_commands_run_without_the_repository(installed, tmp_path):
    def run(name, *flags):
        environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [installed / name, *flags],
            cwd=tmp_path,
            env={**environment, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )

    run("zsg-train", "--config", "tmta", "--workdir", "w", *SMALL)
    rows = (tmp_path / "w/runs/tmta-nft-seed0/metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == 2
    assert (tmp_path / "w/report/index.html").stat().st_size > 1000

    record = {"id": "a", "messages": [{"role": "user", "content": "q"}]}
    record["messages"].append({"role": "assistant", "content": "b"})
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    run("zsg-arrange", "--train", "x.jsonl", "--test", "x.jsonl", "--output", "arranged")
    others = ("evaluate", "export", "prepare", "plan")
    run("python", "-c", ";".join(f"import zsg_jax.{name}" for name in others))
    assert all((installed / f"zsg-{name}").exists() for name in others)
