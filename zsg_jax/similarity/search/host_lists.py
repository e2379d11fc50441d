"""The k best rows of every test row so far, chosen by NumPy from products a CPU has computed.

On a CPU the host reads the products where they are, and what XLA has for choosing among them there
runs on one thread and sorts too much. A product is compared with the worst of its full list, and
the few that beat it are put behind the list; when the room there is used up, a partition keeps the
k best. A cosine and its row make one whole number, the smaller the better, so that partitions and
sorts keep ties in the order of the rows.
"""

import numpy as np

NOTHING = np.iinfo(np.int64).max


class HostLists:
    """Lists of T test rows, to which products are added by ascending position of their rows."""

    def __init__(self, tests: int, k: int, room: int, *, farthest: bool) -> None:
        """Takes the number of lists, their length, and how many rows come at a time at most."""
        self._k, self._room, self._farthest = k, room, farthest
        width = k + max(k, 2 * room)
        self._keys_TxW = np.full((tests, width), NOTHING)
        self._first_T = np.arange(tests) * width
        self._used_T = np.zeros(tests, np.int64)
        # The worst of each full list; infinitely bad before it is full.
        self._worst_Tx1 = np.full((tests, 1), np.inf if farthest else -np.inf, np.float32)

    def add(self, product_TxR: np.ndarray, start: int) -> None:
        """Takes the cosines of R rows, at most `room`, of which the first has position `start`."""
        beats = np.less if self._farthest else np.greater
        # Equal to the worst is no better: every row in the list has a lower position.
        at = np.flatnonzero(beats(product_TxR, self._worst_Tx1))
        if not len(at):
            return
        width = product_TxR.shape[1]
        test = at // width
        row = at - test * width
        keys = encoded(product_TxR[test, row], start + row, self._farthest)
        count_T = np.bincount(test, minlength=len(product_TxR))
        rank = np.arange(len(at)) - (np.cumsum(count_T) - count_T)[test]
        self._keys_TxW.reshape(-1)[self._first_T[test] + self._used_T[test] + rank] = keys
        self._used_T += count_T
        full = np.flatnonzero(self._used_T > self._keys_TxW.shape[1] - self._room)
        if len(full):
            self._shorten(full)

    def best(self) -> np.ndarray:
        """(T, k) int64 keys, best first, then `NOTHING` where there are fewer rows."""
        self._shorten(np.arange(len(self._used_T)))
        return np.sort(self._keys_TxW[:, : self._k], axis=1)

    def _shorten(self, lists: np.ndarray) -> None:
        """Leaves the k best in some lists."""
        keys = self._keys_TxW[lists]
        keys[np.arange(keys.shape[1]) >= self._used_T[lists, None]] = NOTHING
        keys.partition(self._k - 1, axis=1)
        self._keys_TxW[lists] = keys
        self._used_T[lists] = np.minimum(self._used_T[lists], self._k)
        worst = keys[:, self._k - 1]
        full = worst != NOTHING
        self._worst_Tx1[lists[full], 0] = decoded(worst[full], self._farthest)[0]


def encoded(values: np.ndarray, positions: np.ndarray, farthest: bool) -> np.ndarray:
    """int64 keys of float32 cosines and their rows' positions, from 0 to 2^31 - 1."""
    bits = (values + np.float32(0)).view(np.int32)  # no negative zeros
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    return ((rising if farthest else ~rising).astype(np.int64) << 32) | positions


def decoded(keys: np.ndarray, farthest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cosines, float32, and positions, int32, of keys."""
    rising = (keys >> 32).astype(np.int32)
    rising = rising if farthest else ~rising
    bits = np.where(rising < 0, rising ^ np.int32(0x7FFFFFFF), rising)
    return bits.view(np.float32), (keys & 0x7FFFFFFF).astype(np.int32)


def merged(keys: list[np.ndarray], k: int) -> np.ndarray:
    """(T, k) keys, best first, of several such tables for the same test rows."""
    if len(keys) == 1:
        return keys[0]
    joined = np.concatenate(keys, axis=1)
    joined.sort(axis=1)
    return joined[:, :k]
