"""What a node can hold at best when everything on it is worth less the fuller it is: many nodes side by side.

A node's final load lies in one of several segments. In a segment every item is worth what it is at the lower end, and
all together take at most the upper end; the node's best is that of its best segment. Items of a node stand together.
"""

from __future__ import annotations

import numpy as np

from edgeward.placement.columns import Floats, Rows
from edgeward.placement.solve.master import Flags

COARSE, FINE, LOOKS = 16, 12, 8
"""segments of a node whose items may be divided, parts of one that is refined, and how many are"""
AT_ONCE = 64
"""nodes; bounds the memory"""
TINY, SLACK = 1e-12, 1e-6
"""what an item of size 0 takes, and room for many of those"""


def whole(node: Rows, size: Rows, gains: Floats, levels: Rows) -> tuple[Floats, Rows]:
    """Whole items, by dynamic programming over (load so far, segment).

    `node`: of each item, ascending; `size`: in units; `gains`: [items, segments], segment s being a load of s units;
    `levels`: by node, the units that it has. Returns the best by node, and which items that takes.
    """
    nodes, top = len(levels), gains.shape[1]
    counts = np.bincount(node, minlength=nodes)
    order = np.argsort(-counts, kind="stable")
    starts = np.searchsorted(node, order)
    ranked = counts[order]
    best = np.zeros((nodes, top + 1, top))
    best[:, top] = -np.inf  # what a load below 0 refers to
    loads = np.arange(top)
    steps = []
    for turn in range(int(ranked[0]) if nodes else 0):
        busy = int(np.searchsorted(-ranked, -turn, side="left"))
        item = starts[:busy] + turn
        before = loads[None, :] - size[item][:, None]
        before[before < 0] = top
        with_it = best[np.arange(busy)[:, None], before] + gains[item][:, None, :]
        better = with_it > best[:busy, :top]
        np.copyto(best[:busy, :top], with_it, where=better)
        steps.append((item, better))
    ends = np.where(loads[None, :] <= levels[order][:, None], best[:, loads, loads], -np.inf)
    segment = np.argmax(ends, axis=1)
    worth = np.zeros(nodes)
    worth[order] = ends[np.arange(nodes), segment]
    taken, load = [], segment.copy()
    for item, better in reversed(steps):
        busy = len(item)
        yes = better[np.arange(busy), load[:busy], segment[:busy]]
        taken.append(item[yes])
        load[:busy] -= np.where(yes, size[item], 0)
    return worth, np.concatenate(taken) if taken else np.zeros(0, dtype=np.intp)


def divided(
    node: Rows, value: Floats, falls: Floats, size: Floats, copies: Floats, room: Floats
) -> tuple[Floats, Floats]:
    """Items that may be divided, by value per size (Dantzig, 1957), over COARSE segments of which those that decide are
    refined. `falls`: [COARSE * FINE, items], at the lower ends of even segments of `room` (by node). Returns the best by
    node and the amount of each item.
    """
    worth, amounts = np.zeros(len(room)), np.zeros(len(node))
    bounds = np.searchsorted(node, np.arange(len(room) + 1))
    for start in range(0, len(room), AT_ONCE):
        some = np.arange(start, min(start + AT_ONCE, len(room)))
        first, counts = bounds[some], bounds[some + 1] - bounds[some]
        at = np.arange(int(counts.max(initial=0)))[None, :]
        real = at < counts[:, None]
        if not at.size:
            continue
        item = np.where(real, first[:, None] + at, 0)
        found, much = _refine(item, real, (value, falls, size, copies), room[some])
        worth[some] = found
        amounts[item[real]] = much[real]
    return worth, amounts


def _refine(item: Rows, real: Flags, of: tuple[Floats, Floats, Floats, Floats], room: Floats) -> tuple[Floats, Floats]:
    rows = np.arange(len(room))
    lower = np.tile(np.arange(COARSE) * FINE, (len(room), 1))
    bounds, amounts = _fill(item, real, of, lower, (lower + FINE) * (room / (COARSE * FINE))[:, None])
    refined = np.zeros(bounds.shape, dtype=bool)
    for _ in range(LOOKS):
        top = np.argmax(bounds, axis=1)
        open_ = np.flatnonzero(~refined[rows, top])
        if not len(open_):
            break
        top = top[open_]
        lower = (top * FINE)[:, None] + np.arange(FINE)[None, :]
        upper = (lower + 1) * (room[open_] / (COARSE * FINE))[:, None]
        finer, much = _fill(item[open_], real[open_], of, lower, upper)
        best = np.argmax(finer, axis=1)
        bounds[open_, top] = np.minimum(bounds[open_, top], finer[np.arange(len(open_)), best])
        amounts[open_, top] = much[np.arange(len(open_)), best]
        refined[open_, top] = True
    top = np.argmax(bounds, axis=1)
    return bounds[rows, top], amounts[rows, top]


def _fill(
    item: Rows, real: Flags, of: tuple[Floats, Floats, Floats, Floats], lower: Rows, upper: Floats
) -> tuple[Floats, Floats]:
    """[nodes, segments] and [nodes, segments, items]"""
    value, falls, size, copies = of
    worth = np.where(real[:, None, :], value[item][:, None, :] - falls[lower[:, :, None], item[:, None, :]], 0.0)
    worth = np.maximum(worth, 0.0)
    each = np.maximum(size[item], TINY)[:, None, :]
    order = np.argsort(-worth / each, axis=2, kind="stable")
    wide = np.where(real, each[:, 0] * copies[item], 0.0)[:, None, :] * (worth > 0)
    sorted_ = np.take_along_axis(wide, order, axis=2)
    before = np.cumsum(sorted_, axis=2) - sorted_
    fits = np.clip(upper[:, :, None] + SLACK - before, 0.0, sorted_)
    amounts = np.zeros_like(worth)
    np.put_along_axis(amounts, order, fits, axis=2)
    amounts = amounts / each
    return np.sum(amounts * worth, axis=2), amounts
