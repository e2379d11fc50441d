"""Rows of string rewriting as arrays, made in chunks: seeded, streamed, none kept.

A chunk hangs on the seed and its number alone, so a run that goes on makes those that are left.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zsg_jax.data.rewriting.rules import Language, Rules
from zsg_jax.data.rewriting.strings import rewrite, strings_with
from zsg_jax.runtime.errors import UserError, check

CHUNK = 1 << 15


@dataclass(frozen=True)
class Draws:
    """How rows are drawn from rules.

    Attributes:
        no_ops: share of rows whose string holds no x of its instruction.
        occurrences: how often a string holds x, each count in as many rows as the others, for each
            rule of an instruction apart.
        exponent: α of the power law by which instructions have their shares, that at the part u of
            all of them by the density α·u^(α-1) (arXiv 2402.10891, long tail); None: each has
            exactly as many rows, but for one.
    """

    no_ops: float = 0.0
    occurrences: tuple[int, ...] = (1,)
    exponent: float | None = None

    def __post_init__(self) -> None:
        check(0 <= self.no_ops <= 1, f"no-ops={self.no_ops} is a share: give 0 to 1")
        check(
            bool(self.occurrences) and min(self.occurrences) >= 1,
            f"occurrences={self.occurrences}: give counts of at least 1; no-ops are a share apart",
        )
        check(
            self.exponent is None or self.exponent > 0,
            f"exponent={self.exponent} of a power law must be above 0",
        )


@dataclass(frozen=True)
class Rows:
    """N rows; letters uint8, `PAD` after the end of an answer.

    Attributes:
        instruction: (N,) int64, which of the rules.
        x, y: (N, R, X) and (N, R, Y).
        z: (N, Z).
        answer, length: (N, W), and its letters (N,).
        replaced: (N, W) bool, the letters of the answer that come from a y.
        applied: (N,) how often a rule was applied; 0 is a no-op.
        cipher: (N, A), the letter that stands for each of the alphabet; None where there is no
            cipher. Where there is one, all strings above are in its letters.
    """

    instruction: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    answer: np.ndarray
    length: np.ndarray
    replaced: np.ndarray
    applied: np.ndarray
    cipher: np.ndarray | None

    def __len__(self) -> int:
        return len(self.z)


class Rewrites:
    """A stream of rows by the same rules, in chunks of `CHUNK`."""

    def __init__(
        self, language: Language, rules: Rules, draws: Draws, *, rows: int, seed: tuple[int, ...]
    ) -> None:
        """Decides which row has which instruction; strings are made by the chunk.

        Args:
            language: lengths, alphabet, cipher.
            rules: I instructions.
            draws: how rows are drawn.
            rows: N in all.
            seed: of this stream.

        Raises:
            UserError: strings have no room for so many left sides.
        """
        most = max(draws.occurrences) * language.rules * language.x
        if draws.no_ops < 1 and most > language.z:
            raise UserError(
                f"occurrences={draws.occurrences} of x of {language.x} letters, for "
                f"{language.rules} rules, have no room in a string of {language.z}"
            )
        self.language, self.rules, self.draws, self.rows = language, rules, draws, rows
        self._seed = seed
        rng = self._stream(0)
        if draws.exponent is None:
            self.instruction = rng.permutation(rows) % len(rules)
        else:
            part = 1 - rng.random(rows)  # in (0, 1]
            place = np.ceil(len(rules) * part ** (1 / draws.exponent)).astype(np.int64)
            self.instruction = np.clip(place, 1, len(rules)) - 1

    @property
    def chunks(self) -> int:
        """How many there are."""
        return -(-self.rows // CHUNK)

    def __iter__(self) -> Iterator[Rows]:
        return map(self.chunk, range(self.chunks))

    def chunk(self, number: int) -> Rows:
        """The rows from `number · CHUNK` on, the last chunk being shorter."""
        rng = self._stream(number + 1)
        language, draws = self.language, self.draws
        instruction = self.instruction[number * CHUNK : (number + 1) * CHUNK]
        x, y = self.rules.x[instruction], self.rules.y[instruction]
        N, R = x.shape[:2]
        times = np.asarray(draws.occurrences)[rng.integers(0, len(draws.occurrences), (N, R))]
        times[rng.random(N) < draws.no_ops] = 0
        z = strings_with(x, times, language.z, language.letters, rng)
        cipher = None
        if language.encrypted:
            alphabet = np.tile(np.arange(language.letters, dtype=np.uint8), (N, 1))
            cipher = rng.permuted(alphabet, axis=1)
            # A letter cipher and rewriting can change places: what is rewritten under it is
            # the rewritten string under it.
            x, y, z = (_enciphered(cipher, one) for one in (x, y, z))
        answer, length, replaced, applied = rewrite(z, x, y, language.limit)
        return Rows(instruction, x, y, z, answer, length, replaced, applied, cipher)

    def _stream(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self._seed, number])))


def _enciphered(cipher: np.ndarray, strings: np.ndarray) -> np.ndarray:
    """Strings (N, …) in the letters of their rows' ciphers."""
    flat = np.take_along_axis(cipher, strings.reshape(len(strings), -1), axis=1)
    return flat.reshape(strings.shape)
