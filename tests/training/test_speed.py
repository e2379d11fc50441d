import numpy as np
import pytest

from zsg_jax.models.families import FAMILIES
from zsg_jax.training import flops, metrics, sharding
from zsg_jax.training.flops import Speed
from zsg_jax.workflows import study

RUN = "runs/tmta-nft-seed0"


class Device:
    """A card, as far as `Speed` looks at it."""

    def __init__(self, kind, used, process=0):
        self.device_kind, self.process_index, self._used = kind, process, used

    def memory_stats(self):
        return self._used if self._used is None else {"peak_bytes_in_use": self._used}


class Mesh:
    """Its devices."""

    def __init__(self, *devices):
        self.devices = np.array([devices], object)


MODEL = FAMILIES["llama"].sized("tiny", 258, 64)
LENGTHS = np.array([5, 60, 7, 9, 11])


def test_mfu_is_the_work_on_real_tokens_over_what_the_devices_could_do():
    mesh = Mesh(Device("NVIDIA H200", 7), Device("NVIDIA H200", 9), Device("NVIDIA H200", 99, 1))
    # A second and a whole minute: what is rounded is small beside it.
    seconds = 1e-9
    found = Speed(MODEL, LENGTHS, mesh, "bfloat16")([3, 1], seconds)
    peak, tokens = 3 * 989e12, 9 + 60
    a_layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    work = 2 * tokens * (3 * a_layer + 64 * 258)
    work += 3 * 4 * 4 * 16 * (9 * 10 / 2 + 60 * 61 / 2)
    assert found["mfu"] == pytest.approx(3 * work / seconds / peak, abs=1e-6)
    # Of adapters, the frozen weights get no gradient.
    frozen = Speed(MODEL, LENGTHS, mesh, "bfloat16", frozen=True)([3, 1], seconds)
    spared = 2 * tokens * (3 * a_layer + 64 * 258)
    assert frozen["mfu"] == pytest.approx((3 * work - spared) / seconds / peak, abs=1e-6)
    assert found["tokens_per_second"] == pytest.approx(tokens / seconds)
    assert found["memory"] == 9  # of this process's devices
    assert flops.peak("NVIDIA H200", "bfloat16") == 989e12


def test_what_is_not_known_is_left_out():
    known, unknown = Device("NVIDIA H200", 7), Device("cpu", None)
    assert set(Speed(MODEL, LENGTHS, Mesh(unknown), "float32")([0], 1.0)) == {"tokens_per_second"}
    both = Speed(MODEL, LENGTHS, Mesh(known, unknown), "float32")([0], 1.0)
    assert set(both) == {"tokens_per_second", "memory"}
    real = Speed(MODEL, LENGTHS, sharding.make_mesh(1, 1), "float32")([0, 2], 4.0)
    assert real["tokens_per_second"] == 3.0
    # Of a clock that stands still.
    assert np.isfinite(Speed(MODEL, LENGTHS, Mesh(known), "float32")([0], 0.0)["mfu"])


def test_every_training_row_tells_its_real_tokens_a_second(small_config, tmp_path):
    page = study.run(small_config(**{"training.packing": False}), tmp_path, command="test")
    rows = [row for row in metrics.read_records(tmp_path / RUN) if row["kind"] == "train"]
    tokens = [row["tokens_per_second"] * row["seconds"] for row in rows]
    # Answer tokens are some of them, and a row's fill counts them all.
    assert all(row["tokens"] < count for row, count in zip(rows, tokens, strict=True))
    places = tokens[0] / rows[0]["fill"]
    fills = [row["fill"] * places for row in rows]
    np.testing.assert_allclose(fills, tokens, rtol=1e-3)
    mean = sum(tokens) / sum(row["seconds"] for row in rows)
    text = page.read_text()
    assert f"{mean:,.0f}, prompts and answers" in text
    assert "Model FLOPs utilization" not in text
