"""The mission's formulas, each one function. Nothing here decides; the planner, the downloader and explain call it.

Marks and counts give exact fractions, measured amounts give floats. A = importance, B = urgency, C = satisfaction,
1..5 each. What decides over many nodes takes floats or columns of them (columns.py). Source of every formula, where its
docstring names no other: the mission statement in the form that the design's table makes precise; the worked answer
beside each is a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from edgeward.fleet.podspec import priority_tier as priority_tier
from edgeward.placement.columns import ONE, TINY, Number, Ops

Marks = tuple[int, int, int]


def column_weights(rows: Sequence[tuple[int, int, int]]) -> tuple[Fraction, Fraction, Fraction]:
    """w_k = 1 / (sum of column k). A column that sums to 0 weighs 0: it tells nothing apart."""
    sums = [sum(row[k] for row in rows) for k in range(3)]
    first, second, third = (Fraction(1, total) if total else Fraction(0) for total in sums)
    return first, second, third


def priorities(marks: Sequence[Marks]) -> tuple[Fraction, ...]:
    """P_i = w1 A_i + w2 B_i + w3 C_i with w_k = 1/(column sum) over the pending and running jobs. No unit, exact.

    P orders jobs within a priority tier. (3,5,4) (2,3,5) (5,2,3) (4,4,2) (1,1,1) -> 4/5 2/3 2/3 2/3 1/5.
    """
    weights = column_weights(marks)
    return tuple(weights[0] * a + weights[1] * b + weights[2] * c for a, b, c in marks)


def capability(cores: Number, free: Number, seconds: Number, op: Ops = ONE) -> Number:
    """K_j = C_j R_j / T_j: C effective cores, R of them free, T predicted seconds of this job there. More is better.

    (1000,500,20) (1500,800,30) (2000,1000,40) (3000,2000,50) -> 25000 40000 50000 120000.
    """
    return op.where(seconds > 0, cores * free / op.maximum(seconds, TINY), 0.0)


def shares_of_best(values: Sequence[float]) -> tuple[float, ...]:
    """K / max K, 0..1: 25000 40000 50000 120000 -> .208 .333 .417 1. All 0 when nothing has any capability."""
    best = max(values, default=0.0)
    return tuple(value / best if best > 0 else 0.0 for value in values)


def weighted_capabilities(rows: Sequence[tuple[int, int, int]]) -> tuple[Fraction, ...]:
    """w1 C_j + w2 R_j + w3 T_j with w = 1/column sum. Kept for comparison: it counts slowness as a plus, so it must
    not decide. The rows of `capability` -> .3925 .6003 .7849 1.2222.
    """
    return priorities(rows)


def load(cores: Number, free: Number, op: Ops = ONE) -> Number:
    """l_j = 1 - R_j/C_j, 0 idle to 1 full; a device without cores is full. .500 .467 .500 .333 for the rows above."""
    return op.where(cores > 0, op.minimum(1.0, op.maximum(0.0, 1.0 - free / op.maximum(cores, TINY))), 1.0)


def backlog_seconds(load: Number, seconds: Number, op: Ops = ONE) -> Number:
    """Predicted seconds until a device at load l has worked off what it has, as one request of T seconds meets it:
    T l/(1 - l), the extra time of a processor-sharing queue (M/G/1-PS, Kleinrock 1967). 0 when idle; l is cut at .99,
    beyond which the mean says nothing any more.
    """
    bounded = op.minimum(op.maximum(load, 0.0), 0.99)
    return seconds * bounded / (1.0 - bounded)


def transfer_time(pack: float, send: float, receive: float) -> float:
    """T_d = T_p + T_s + T_r, seconds: packing, sending, unpacking. (5,10,3) (8,12,4) (3,15,6) -> 18 24 24."""
    return pack + send + receive


def link_seconds(
    *,
    size: float,
    bandwidth: float | None,
    rtt: float | None = None,
    compressed: float = 1.0,
    pack_rate: float | None = None,
    unpack_rate: float | None = None,
) -> float:
    """T_d from measured rates: size/pack rate + rtt + 8 size z/bandwidth + size/unpack rate, seconds.

    size in bytes, bandwidth in bit/s, z = compressed/size, rates in byte/s. A rate of None was not measured and adds
    nothing; whoever shows the figure says so.
    """
    pack = size / pack_rate if pack_rate else 0.0
    wire = 8.0 * size * compressed / bandwidth if bandwidth else 0.0
    unpack = size / unpack_rate if unpack_rate else 0.0
    return transfer_time(pack, (rtt or 0.0) + wire, unpack)


def completion(free_at: Number, transfer: Number, seconds: Number, op: Ops = ONE) -> Number:
    """completion_jk = max(free_j, T_dj) + T_jk, seconds from now: the data travels while the device works off what it
    has. For a serving job free_j is the backlog (0 when idle) and T_jk the predicted seconds of one request.
    """
    return op.maximum(free_at, transfer) + seconds


def schedule(
    order: Sequence[int], seconds: Sequence[Sequence[float]], transfers: Sequence[float]
) -> tuple[tuple[int, float], ...]:
    """Assign each task, in `order`, to the device where it ends first; ties go to the lower index.

    seconds[k][j] is T_jk of task k on device j. Returns (device, end) per task, by task index. With T = 20 30 40 50,
    transfers 18 24 24 24 and tasks in the order of P (1,4,2,3,5): devices 1,1,3,2,4 and ends 38 58 64 54 74.
    """
    free = [0.0] * len(transfers)
    placed: dict[int, tuple[int, float]] = {}
    for task in order:
        ends = [completion(free[j], transfers[j], seconds[task][j]) for j in range(len(transfers))]
        device = min(range(len(ends)), key=lambda j: (ends[j], j))
        free[device] = ends[device]
        placed[task] = (device, ends[device])
    return tuple(placed[task] for task in sorted(placed))


def processing_time(amount: float, rate: float) -> float:
    """T_E = D/P_E at the edge device, T_N = D/P_N at the node: seconds for D units at P units a second."""
    return amount / rate


def processing_shares(edge_rate: int, node_rate: int) -> tuple[Fraction, Fraction]:
    """Shares of the work that let both end together, P_E : P_N. 100 and 1000 -> 1/11 and 10/11."""
    total = edge_rate + node_rate
    return Fraction(edge_rate, total), Fraction(node_rate, total)


def both_links_time(amount: float, edge_rate: float, cloud_rate: float, uplink: float | None = None) -> float:
    """T_S = D/(R_E + R_C), seconds, both links at once when they are separate; over one shared uplink
    D/min(uplink, R_E + R_C). 1000 over 100 + 500 -> 1.667. The three rates and D share a unit.
    """
    rate = edge_rate + cloud_rate
    return amount / (rate if uplink is None else min(uplink, rate))


@dataclass(frozen=True, slots=True)
class Split:
    """What the edge keeps of a demand for computing (C) and for data (S), and the share that this minimises."""

    compute_edge: Fraction
    data_edge: Fraction
    share: Fraction


def split_demand(
    *,
    compute: Fraction,
    compute_required: tuple[Fraction, Fraction],
    data: Fraction,
    data_required: tuple[Fraction, Fraction],
    bandwidth: Fraction,
    drain_rate: Fraction,
) -> Split | None:
    """min max(C_E/C_D, S_E/S_D): the edge gives only what latency, residency and drain time force. Exact.

    C_C = C_D - C_E and S_C = S_D - S_E; each side gets at least its required (edge, cloud) part; S_C <= B/B_min, since
    what goes to the cloud must drain within maxDrain = 1/B_min seconds. S in the unit that B carries a second.
    Both ratios grow with their own variable alone, so the optimum is the pair of lower bounds, which also has the
    smallest C_E and then S_E among equal minima. None when no split satisfies the bounds.
    C_D=15 C_req=(3,8) S_D=6 S_req=(1,3) B_min=.1: B=.4 -> 3, 2, 1/3; B=1 -> 3, 1, 1/5.
    """
    drains = bandwidth / drain_rate if drain_rate > 0 else data
    compute_edge = max(Fraction(0), compute_required[0])
    data_edge = max(Fraction(0), data_required[0], data - drains)
    if compute_edge > compute - max(Fraction(0), compute_required[1]):
        return None
    if data_edge > data - max(Fraction(0), data_required[1]):
        return None
    share = max(compute_edge / compute if compute else Fraction(0), data_edge / data if data else Fraction(0))
    return Split(compute_edge, data_edge, share)
