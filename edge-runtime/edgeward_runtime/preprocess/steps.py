"""The steps as functions over values of shape (rows or height, [width,] channels), float32. A missing value is nan."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgeward_runtime.preprocess.records import Values
from edgeward_runtime.preprocess.spec import Denoise, Fuse, Normalise, Resize

_MEDIAN_BYTES = 2**24  # of windows at once: all those of a picture are up to 225 times as large as it


def resampled(values: Values, resize: Resize) -> Values:
    """A table at `height` evenly spaced moments between its first and its last row, linear in between. A missing value
    is bridged by its neighbours in time; a channel without any stays missing."""
    before = np.linspace(0.0, 1.0, len(values)) if len(values) > 1 else np.zeros(1)
    after = np.linspace(0.0, 1.0, resize.height) if resize.height > 1 else np.zeros(1)
    result = np.full((resize.height, values.shape[1]), np.nan, np.float32)
    for channel in range(values.shape[1]):
        known = ~np.isnan(values[:, channel])
        if known.any():
            result[:, channel] = np.interp(after, before[known], values[known, channel])
    return result


def normalised(values: Values, step: Normalise) -> Values:
    mean, std = np.asarray(step.mean, np.float32), np.asarray(step.std, np.float32)
    return ((values * np.float32(step.scale) - mean) / std).astype(np.float32, copy=False)


def denoised(values: Values, step: Denoise) -> Values:
    """Along the rows of a table, along rows and columns of an image; the edge values go on beyond the edges. Missing
    values take no part, and stay missing only where nothing in reach is known."""
    axes = tuple(range(values.ndim - 1))
    if step.filter == "Median":
        return _median(values, step.size, axes)
    for axis in axes:
        values = _low_pass(values, step.sigma, axis)
    return values


def _median(values: Values, size: int, axes: tuple[int, ...]) -> Values:
    half = size // 2
    padded = np.pad(values, [(half, half) if axis in axes else (0, 0) for axis in range(values.ndim)], mode="edge")
    windows = sliding_window_view(padded, (size,) * len(axes), axis=axes)
    gaps = bool(np.isnan(values).any())
    result = np.full(values.shape, np.nan, np.float32)
    # In blocks, first of rows, then of columns where one row is too much.
    place = 4 * size ** len(axes) * values.shape[-1]
    wide = values.shape[1] if len(axes) > 1 else 1
    columns = min(wide, max(1, _MEDIAN_BYTES // place))
    rows = max(1, _MEDIAN_BYTES // (place * columns))
    for top in range(0, len(values), rows):
        for left in range(0, wide, columns):
            block = (slice(top, top + rows), slice(left, left + columns))[: len(axes)]
            result[block] = _middle(windows[block], values.ndim, gaps)
    return result


def _middle(windows: Values, dimensions: int, gaps: bool) -> Values:
    """The medians of windows, which are behind so many dimensions."""
    flat = windows.reshape(*windows.shape[:dimensions], -1)
    if not gaps:
        middle = (
            flat.shape[-1] // 2
        )  # of an odd number of values; np.median looks for nan too, which takes several times as long
        return np.partition(flat, middle, axis=-1)[..., middle]
    known = ~np.isnan(flat).all(axis=-1)
    result = np.full(flat.shape[:-1], np.nan, np.float32)
    result[known] = np.nanmedian(flat[known], axis=-1)
    return result


def _low_pass(values: Values, sigma: float, axis: int) -> Values:
    """A Gaussian of standard deviation sigma, cut at three of them and made to sum to 1. Over missing values it is the
    mean of what is known, weighted by the same Gaussian."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    padded = np.pad(values, [(reach, reach) if one == axis else (0, 0) for one in range(values.ndim)], mode="edge")
    known = ~np.isnan(padded)
    filled = np.where(known, padded, np.float32(0.0))
    # One weight after the other: all windows in float64 would be hundreds of times as large as the values.
    total = np.zeros(values.shape, np.float64)
    weights = np.zeros(values.shape, np.float64)
    for offset, weight in enumerate(kernel):
        reached = tuple(
            slice(offset, offset + values.shape[axis]) if one == axis else slice(None) for one in range(values.ndim)
        )
        total += filled[reached] * weight
        weights += known[reached] * weight
    with np.errstate(invalid="ignore"):
        return np.where(weights > 0, total / weights, np.nan).astype(np.float32)


def fused(values: Values, step: Fuse) -> tuple[Values, frozenset[int]]:
    """The values with their channels fused, and the positions (among the channels before) that had to be done without
    at least once. mean = sum(w_i x_i) / sum(w_i) over the known x_i; with none known it is missing."""
    columns = []
    missing: set[int] = set()
    for one in step.into:
        sources = values[..., one.sources]
        absent = np.isnan(sources)
        if absent.any():
            gone = np.flatnonzero(absent.reshape(-1, len(one.sources)).any(axis=0))
            missing.update(one.sources[index] for index in gone)
        weights = np.where(absent, 0.0, np.asarray(one.weights))
        total = weights.sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns.append((np.where(absent, 0.0, sources) * weights).sum(axis=-1) / total)
    kept = [values[..., index] for index in step.kept]
    return np.stack([*columns, *kept], axis=-1).astype(np.float32, copy=False), frozenset(missing)


def distance(one: Values, other: Values) -> float:
    """Mean of absolute differences, in the values' units; inf where the shapes or what is missing differ."""
    if one.shape != other.shape or not np.array_equal(np.isnan(one), np.isnan(other)):
        return math.inf
    return float(np.nanmean(np.abs(one - other))) if not np.isnan(one).all() else 0.0
