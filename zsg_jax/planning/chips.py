"""Public figures of accelerators: peak arithmetic, memory, and what connects them."""

from dataclasses import dataclass

from zsg_jax.runtime.errors import UserError, did_you_mean
from zsg_jax.training.flops import PEAKS

GB, GIB = 10**9, 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator, in bytes, bytes/s and FLOP/s; 0 where there is no public figure.

    Attributes:
        kind: "tpu", "gpu" or "cpu".
        peak: dense bfloat16 multiplications and additions a second, sums in float32.
        memory: bytes on the chip.
        usable: the share of them that a step may take.
        bandwidth: of that memory.
        interconnect: out of a chip, one way, all links together, to the chips it is wired to.
        wired: chips that share that interconnect; 0: all.
        network: out of a chip, one way, to all others.
    """

    kind: str
    peak: float
    memory: int
    usable: float
    bandwidth: float
    interconnect: float
    wired: int = 0
    network: float = 0.0


def _peak(kind: str) -> float:
    """That of `flops.PEAKS`, in bfloat16."""
    return PEAKS[kind][0]


# TPU: cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e, "Key chip specifications"; the interconnect
# is given there in Gbit/s a chip. The compiler keeps 0.25 GiB of v5e's 16 for itself.
_TPU = {
    "v4": Chip("tpu", _peak("TPU v4"), 32 * GIB, 0.98, 1228e9, 2400e9 / 8),
    "v5e": Chip("tpu", _peak("TPU v5e"), 16 * GIB, 0.98, 819e9, 1600e9 / 8),
    "v5p": Chip("tpu", _peak("TPU v5p"), 95 * GIB, 0.98, 2765e9, 4800e9 / 8),
    "v6e": Chip("tpu", _peak("TPU v6e"), 32 * GIB, 0.98, 1600e9, 3200e9 / 8),
}


def _gpu(peak: float, gigabytes: int, bandwidth: float, one_way: float, wired: int = 8) -> Chip:
    # 400 Gbit/s a card between hosts, as in NVIDIA's DGX of these cards.
    network = 50e9 if wired == 8 else 12.5e9
    return Chip("gpu", peak, gigabytes * GB, 0.9, bandwidth, one_way, wired, network)


# GPU: NVIDIA's data sheets, dense figures (half of those "with sparsity"); NVLink and PCIe stand
# there both ways together, here one way. Of the GeForce cards: the architecture white papers'
# "Peak BF16 Tensor TFLOPS with FP32 accumulate".
_GPU = {
    "b200": _gpu(2250e12, 180, 7.7e12, 900e9),
    "h200": _gpu(_peak("NVIDIA H200"), 141, 4.8e12, 450e9),
    "h100-80": _gpu(_peak("NVIDIA H100 80GB HBM3"), 80, 3.35e12, 450e9),
    "a100-80": _gpu(_peak("NVIDIA A100"), 80, 2.039e12, 300e9),
    "a100-40": _gpu(_peak("NVIDIA A100"), 40, 1.555e12, 300e9),
    "l40s": _gpu(362e12, 48, 864e9, 32e9, 4),
    "l4": _gpu(121e12, 24, 300e9, 32e9, 4),
    "a10": _gpu(125e12, 24, 600e9, 32e9, 4),
    "rtx5090": _gpu(209.5e12, 32, 1.792e12, 64e9, 4),
    "rtx4090": _gpu(165.2e12, 24, 1.008e12, 32e9, 4),
    "rtx3090": _gpu(71e12, 24, 936e9, 32e9, 4),
}

CHIPS: dict[str, Chip] = {**_TPU, **_GPU}


def chip(name: str) -> Chip:
    """The chip of this name; "cpu" is not one of them, see `machines.parse`.

    Raises:
        UserError: naming those there are, and the nearest.
    """
    if name not in CHIPS:
        known = ", ".join([*CHIPS, "cpu"])
        raise UserError(
            f"--topology {name}: a chip that is not known; known are {known}"
            + did_you_mean(name, CHIPS)
        )
    return CHIPS[name]
