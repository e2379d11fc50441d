"""A run killed with SIGKILL at any moment goes on and writes the numbers it would have."""

import signal
from pathlib import Path

import pytest


@pytest.fixture
def check(commands, finished, read_metrics, tmp_path):
    """Kills a study at several places, and compares what it writes at last."""

    def run(places, told=""):
        study = tmp_path / "killed", finished / "config.json"
        several = [[*study, *place] for place in (*places, ("none", 0))]
        *killed, (code, _, err) = commands("killed", *several, cwd=Path(__file__).parent)
        for place, one in zip(places, killed, strict=True):
            assert one[0] == -signal.SIGKILL, (place, one)
        assert code == 0, err
        assert told in err
        run = Path("runs") / "tmta-nft-seed0"
        assert read_metrics(study[0] / run) == read_metrics(finished / run)
        assert (study[0] / "report" / "index.html").exists()

    return run


def test_killed_again_and_again_the_metrics_are_the_same_bit_for_bit(check):
    # Files come first: config.json, the tokens', data.json, shards and manifests, the
    # arrangement's, metrics. Then 10 steps, a test row at 0, 3, 6, 9 and 10, a checkpoint at 4, 8
    # and 10. After the last checkpoint: finished.json, summary.json, the page's.
    files = [("writing", count) for count in (4, 9)]
    loop = [("row", 3), ("saving", 1), ("saved", 1), ("mid-row", 5), ("saved", 2)]
    places = [*files, *loop, ("writing", 3)]
    check(places, "going on after step 10")


@pytest.mark.slow
def test_killed_at_any_file(check):
    files = [("writing", count) for count in (1, 2, 4, 6, 9, 12, 4, 6, 9)]
    loop = [("saving", 2), ("saving", 1), ("saved", 1)]
    check([*files, *loop, ("writing", 3), ("writing", 4)])


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 16))
def test_killed_before_any_row(check, count):
    check([("row", count)])
