"""How different two histograms over the same bins are. p the reference's shares, q those seen now, K bins.

PSI, population stability index:  sum_k (q_k - p_k) ln(q_k / p_k), 0 (equal) and up, in nats. It is Jeffreys'
divergence, J(p, q) = KL(p, q) + KL(q, p) (H. Jeffreys, An invariant form for the prior probability in estimation
problems, Proc. R. Soc. A 186, 1946). The rule of thumb from credit scoring (N. Siddiqi, Credit Risk Scorecards, 2006):
below 0.1 nothing, 0.1 to 0.25 some, above a lot. An empty bin would make it infinite; its share is taken as 1e-4.
With no difference at all PSI over N and M independent rows is about (1/N + 1/M) times a chi-square of K - 1 degrees
(B. Yurdakul, Statistical Properties of Population Stability Index, Western Michigan University, 2018): with too few
rows it is noise, hence `rows_needed`.

KS, Kolmogorov-Smirnov distance:  max_k |Q_k - P_k| over the sums Q_k = q_1 + ... + q_k, 0 (equal) .. 1 (apart). Over
bins it is looked at on their bounds only, so it is at most that of the values themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeward_runtime.drift.histogram import Counts, Floats, Histogram

EMPTY_SHARE = 1e-4
_ROWS_PER_BIN = 20
_ROWS_PER_BIN_OF_MANY = 60


@dataclass(frozen=True, slots=True)
class Score:
    """Of the column that is furthest off, each."""

    psi: float
    ks: float


def _shares(counts: Counts) -> Floats:
    """[..., K] counts -> shares; of no counts at all, zeros."""
    result: Floats = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return result


def psi(reference: Counts, seen: Counts) -> Floats:
    """int64 [..., K] each -> nats [...]"""
    p, q = (np.maximum(_shares(counts), EMPTY_SHARE) for counts in (reference, seen))
    result: Floats = ((q - p) * np.log(q / p)).sum(axis=-1)
    return result


def ks(reference: Counts, seen: Counts) -> Floats:
    """int64 [..., K] each -> 0..1 [...]"""
    distance = np.abs(np.cumsum(_shares(seen) - _shares(reference), axis=-1)).max(axis=-1)
    result: Floats = np.minimum(distance, 1.0)
    return result


def rows_needed(*, bins: int, columns: int) -> int:
    """Rows under which a score says nothing. 20 a bin keep the mean of PSI without any drift, (K-1)/N, at 0.05, half of
    what is called some; of many columns the worst is shown, which by chance alone is some three times the mean."""
    return (_ROWS_PER_BIN if columns == 1 else _ROWS_PER_BIN_OF_MANY) * (bins - 1)


def score(reference: Histogram, seen: Histogram) -> Score | None:
    """None while there are too few rows, or nothing finite in a column: unknown is not zero."""
    if reference.bins != seen.bins:
        raise ValueError("histograms over different bins cannot be compared")
    bins = seen.bins
    if seen.rows < rows_needed(bins=bins.size, columns=bins.columns):
        return None
    told = reference.counts.any(axis=1) & seen.counts.any(axis=1)
    if not told.any():
        return None
    p, q = reference.counts[told], seen.counts[told]
    return Score(psi=float(psi(p, q).max()), ks=float(ks(p, q).max()))
