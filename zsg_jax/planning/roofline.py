"""The least time a step can take on a chip, and the days an epoch then takes."""

from collections.abc import Iterable
from dataclasses import dataclass

from zsg_jax.planning.chips import Chip
from zsg_jax.planning.collectives import Collective

DAY = 86_400.0


@dataclass(frozen=True)
class Roofline:
    """Seconds that a step needs for each, were it alone."""

    compute: float
    memory: float
    exchange: float

    @property
    def seconds(self) -> float:
        """Of a step in which all three overlap wholly."""
        return max(self.compute, self.memory, self.exchange)

    @property
    def bound(self) -> str:
        """Which of them it is."""
        return max(("compute", "memory", "exchange"), key=lambda name: getattr(self, name))


def roofline(
    chip: Chip, flops: float, traffic: float, exchanges: Iterable[Collective]
) -> Roofline | None:
    """The roofline of one chip; None for a chip without public figures.

    Args:
        flops, traffic: of one chip and step.
        exchanges: whose bytes leave over the interconnect, or the network where chips are not
            wired to each other.
    """
    if not chip.peak:
        return None
    slow = chip.network or chip.interconnect
    exchange = sum(
        one.count * one.wire / (slow if one.spread else chip.interconnect) for one in exchanges
    )
    return Roofline(flops / chip.peak, traffic / chip.bandwidth, exchange)


def days(rows: int, batch_size: int, seconds: float) -> float:
    """Days for `rows` training rows, `batch_size` a step, the last step as long as the others."""
    return -(-rows // batch_size) * seconds / DAY
