import math

import pytest

from zsg_jax.planning import machines as topology
from zsg_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("text", "name", "chips"),
    [
        ("v5p:2x2x2", "v5p:2x2x2", 8),
        ("v4:2x2x4", "v4:2x2x4", 16),
        ("v5e:4x4", "v5e:4x4", 16),
        ("V6E:2x4", "v6e:2x4", 8),
        ("h200:8", "h200:8", 8),
        ("a100-80:16", "a100-80:16", 16),
        ("rtx4090", "rtx4090:1", 1),
        ("cpu:8", "cpu:8", 8),
        # The cloud counts two cores a chip of v4 and v5p, and chips of the others.
        ("v5p-8", "v5p:2x2x1", 4),
        ("v5e-16", "v5e:4x4", 16),
        ("v6e-8", "v6e:2x4", 8),
    ],
)
def test_names_of_machines(text, name, chips):
    found = topology.parse(text)
    assert (found.name, found.count) == (name, chips)
    assert math.prod(found.shape) == chips


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("h20O:8", "did you mean h200"),
        ("v5:2x2", "did you mean v5"),
        ("v5p:2x2", "v5p has 3 sides; give it as v5p:2x2x2"),
        ("v5e", "give it as v5e:4x4"),
        ("v5e:8", "v5e has 2 sides"),
        ("v5e-17", "v5e-16"),
        ("v5p-9", "v5p-8"),
        ("h200:0", "'0' is no size"),
        ("h200:2x4", "h200 has 1 side; give it as h200:8"),
        ("cpu:many", "'many' is no size"),
        ("cpu:100000", "give fewer"),
    ],
)
def test_what_is_no_machine_is_told_in_a_line(text, told):
    with pytest.raises(UserError, match="--topology") as error:
        topology.parse(text)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_memory_given_is_used_whole_and_simulated_devices_share_theirs():
    given = topology.parse("cpu:4", memory_gb=0.5).chip
    assert given.memory * given.usable == 500_000_000
    one, eight = (topology.parse(f"cpu:{n}").chip.memory for n in (1, 8))
    assert one // 8 == eight
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="--memory-gb"):
            topology.parse("h200:1", memory_gb=wrong)
