"""The k best rows of every test row so far, kept up span by span, most of which hold none.

Choosing k of all rows costs more than their products. So the products are looked over in groups of
neighbouring rows, by their maxima alone; groups that beat no list are dropped, the others wait in a
buffer, and lists are made anew only when it is full. Nothing is lost: a dropped cosine is no larger
than the last one of a full list, whose rows all have lower positions, which win ties.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zsg_jax.similarity.search.stream import TILE
from zsg_jax.similarity.search.tiles import product

GROUP = 16
SPAN = 4 * TILE  # rows looked over at a time: their products stay in a CPU's cache
WAITING = 2 * SPAN  # rows that may wait


class Lists(NamedTuple):
    """What a device knows after some rows; a key is a cosine, or its negative for the farthest.

    Attributes:
        keys, positions: (T, k) float32 and int32, best first; -inf where there is no row yet.
        waiting: (T, WAITING / GROUP, GROUP) float32 keys, groups of rows in the rows' order.
        starts: (T, WAITING / GROUP) int32, the position of each group's first row.
        used: (T,) int32, how many groups wait; what is behind them is of no account.
    """

    keys: Any
    positions: Any
    waiting: Any
    starts: Any
    used: Any


def empty(tests: int, k: int) -> Lists:
    """Lists before the first row."""
    return Lists(
        np.full((tests, k), -np.inf, np.float32),
        np.full((tests, k), -1, np.int32),
        np.zeros((tests, WAITING // GROUP, GROUP), np.float32),
        np.zeros((tests, WAITING // GROUP), np.int32),
        np.zeros(tests, np.int32),
    )


def add(
    lists: dict[bool, Lists],
    rows_BxD: jax.Array,
    bounds_2: jax.Array,
    test_TxD: jax.Array,
    of_tile: Callable[[jax.Array], jax.Array] | None,
) -> tuple[dict[bool, Lists], jax.Array]:
    """Takes in a block of rows: `bounds_2` is its first position and the end of all.

    `lists` holds those of the farthest (True) and of the nearest (False), or one of them, or none.

    Returns:
        The lists, and what `of_tile` makes of the products (T, R) of each tile, tiles first.
    """
    span = math.gcd(len(rows_BxD), SPAN) // TILE
    tiles_SxNxRxD = rows_BxD.reshape(-1, span, TILE, rows_BxD.shape[1])
    starts_S = bounds_2[0] + span * TILE * jnp.arange(len(tiles_SxNxRxD))
    products_NxTxR = jnp.zeros((span, len(test_TxD), TILE), jnp.float32)

    def one(
        state: tuple[dict[bool, Lists], jax.Array], here: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[dict[bool, Lists], jax.Array], jax.Array]:
        lists, products_NxTxR = state
        tiles_NxRxD, start = here
        products_NxTxR, maxima, others = _multiply(
            products_NxTxR, tiles_NxRxD, test_TxD, start, bounds_2[1], list(lists), of_tile
        )
        lists = {
            farthest: _choose(one, products_NxTxR, maxima[farthest], start, bounds_2[1], farthest)
            for farthest, one in lists.items()
        }
        return (lists, products_NxTxR), others

    (lists, _), others = lax.scan(one, (lists, products_NxTxR), (tiles_SxNxRxD, starts_S))
    return lists, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), others)


def _multiply(
    products_NxTxR: jax.Array,
    tiles_NxRxD: jax.Array,
    test_TxD: jax.Array,
    start: jax.Array,
    end: jax.Array,
    directions: list[bool],
    of_tile: Callable[[jax.Array], jax.Array] | None,
) -> tuple[jax.Array, dict[bool, jax.Array], Any]:
    """Products of a span, written over those of the last one, and the best key of each group."""

    def one(number: jax.Array, state: Any) -> Any:
        products_NxTxR, maxima, others = state
        product_TxR = product(tiles_NxRxD[number], test_TxD)
        real_R = start + number * TILE + jnp.arange(TILE) < end
        for farthest in directions:
            keys_TxR = jnp.where(real_R, -product_TxR if farthest else product_TxR, -jnp.inf)
            maxima_TxM = keys_TxR.reshape(len(test_TxD), -1, GROUP).max(axis=2)
            maxima = {**maxima, farthest: maxima[farthest].at[number].set(maxima_TxM)}
        if of_tile is not None:
            others = others.at[number].set(of_tile(product_TxR))
        if directions:
            products_NxTxR = products_NxTxR.at[number].set(product_TxR)
        return products_NxTxR, maxima, others

    tiles, tests, _ = products_NxTxR.shape
    maxima = {far: jnp.zeros((tiles, tests, TILE // GROUP), jnp.float32) for far in directions}
    others: Any = ()
    if of_tile is not None:
        each = jax.eval_shape(of_tile, products_NxTxR[0])
        others = jnp.zeros((tiles, *each.shape), each.dtype)
    return lax.fori_loop(0, tiles, one, (products_NxTxR, maxima, others))


def _choose(
    lists: Lists,
    products_NxTxR: jax.Array,
    maxima_NxTxM: jax.Array,
    start: jax.Array,
    end: jax.Array,
    farthest: bool,
) -> Lists:
    """The lists with every group of a span in the buffer that beats one of them."""
    tiles, tests, a_tile = maxima_NxTxM.shape
    groups, room = tiles * a_tile, lists.starts.shape[1]
    maxima_TxG = maxima_NxTxM.transpose(1, 0, 2).reshape(tests, groups)
    keys_NxTxMxR = products_NxTxR.reshape(*maxima_NxTxM.shape, GROUP)
    every_T = jnp.arange(tests)

    def following(keys_Txk: jax.Array, group_T: jax.Array) -> jax.Array:
        """The next group behind `group_T` that beats the list, or `groups`."""
        numbers_G = jnp.arange(groups)
        better_TxG = (maxima_TxG > keys_Txk[:, -1:]) & (numbers_G > group_T[:, None])
        return jnp.where(better_TxG, numbers_G, groups).min(axis=1)

    def wait(state: tuple[Lists, jax.Array]) -> tuple[Lists, jax.Array]:
        """Puts the next group of every test row that has one into the buffer."""
        lists, group_T = state
        tile_T, inside_T = jnp.divmod(jnp.minimum(group_T, groups - 1), a_tile)
        keys_TxR = keys_NxTxMxR[tile_T, every_T, inside_T]
        keys_TxR = -keys_TxR if farthest else keys_TxR
        starts_T = start + group_T * GROUP
        keys_TxR = jnp.where(starts_T[:, None] + jnp.arange(GROUP) < end, keys_TxR, -jnp.inf)
        there_T = group_T < groups
        place_T = jnp.where(there_T, lists.used, room)  # a place outside is dropped
        lists = lists._replace(
            waiting=lists.waiting.at[every_T, place_T].set(keys_TxR, mode="drop"),
            starts=lists.starts.at[every_T, place_T].set(starts_T, mode="drop"),
            used=lists.used + there_T,
        )
        return lists, following(lists.keys, group_T)

    def fill(state: tuple[Lists, jax.Array]) -> tuple[Lists, jax.Array]:
        """Makes room where there is none, and uses it."""
        lists, group_T = state
        lists = lax.cond((lists.used == room).any(), merged, lambda same: same, lists)
        return lax.while_loop(
            lambda state: (state[0].used < room).all() & (state[1] < groups).any(),
            wait,
            (lists, following(lists.keys, group_T - 1)),
        )

    first_T = following(lists.keys, jnp.full(tests, -1))
    return lax.while_loop(lambda state: (state[1] < groups).any(), fill, (lists, first_T))[0]


def merged(lists: Lists) -> Lists:
    """The same lists, with nothing waiting."""
    k = lists.keys.shape[1]
    there_TxG = jnp.arange(lists.starts.shape[1]) < lists.used[:, None]
    waiting_TxGxR = jnp.where(there_TxG[:, :, None], lists.waiting, -jnp.inf)
    waiting_TxW = waiting_TxGxR.reshape(len(lists.used), -1)
    # top_k puts 0.0 before -0.0: they have to tie. (XLA drops an addition of 0.0.)
    waiting_TxW = jnp.where(waiting_TxW == 0, 0.0, waiting_TxW)
    # The list comes first: its rows are the lower ones, and top_k keeps the order of equals.
    keys_Txk, at_Txk = lax.top_k(jnp.concatenate([lists.keys, waiting_TxW], axis=1), k)
    old_Txk = jnp.take_along_axis(lists.positions, jnp.minimum(at_Txk, k - 1), axis=1)
    place_Txk = jnp.maximum(at_Txk - k, 0)
    starts_Txk = jnp.take_along_axis(lists.starts, place_Txk // GROUP, axis=1)
    positions_Txk = jnp.where(at_Txk < k, old_Txk, starts_Txk + place_Txk % GROUP)
    return lists._replace(keys=keys_Txk, positions=positions_Txk, used=jnp.zeros_like(lists.used))
