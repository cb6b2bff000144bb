"""Every worked answer of the design, and brute force where an optimum is claimed."""

from fractions import Fraction
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.placement import formulas

MARKS = [(3, 5, 4), (2, 3, 5), (5, 2, 3), (4, 4, 2), (1, 1, 1)]
DEVICES = [(1000, 500, 20), (1500, 800, 30), (2000, 1000, 40), (3000, 2000, 50)]
TRANSFERS = [18.0, 24.0, 24.0, 24.0]
SECONDS = [[20.0, 30.0, 40.0, 50.0]] * 5
ORDER = [0, 3, 1, 2, 4]


def test_priorities_are_exact_fractions() -> None:
    assert formulas.priorities(MARKS) == (Fraction(4, 5), *[Fraction(2, 3)] * 3, Fraction(1, 5))


def test_priorities_of_no_jobs_and_of_one() -> None:
    assert formulas.priorities([]) == ()
    assert formulas.priorities([(1, 5, 2)]) == (Fraction(3),)


def test_a_column_of_zeros_weighs_nothing() -> None:
    assert formulas.priorities([(0, 1, 1), (0, 3, 1)]) == (Fraction(3, 4), Fraction(5, 4))


def test_priority_tiers() -> None:
    assert [formulas.priority_tier(*marks) for marks in MARKS] == [4, 4, 4, 4, 1]
    every = {formulas.priority_tier(*marks) for marks in product(range(1, 6), repeat=3)}
    assert every == {1, 2, 3, 4, 5}
    assert formulas.priority_tier(5, 5, 5) == 5


def test_capability_and_its_shares() -> None:
    values = [formulas.capability(c, r, t) for c, r, t in DEVICES]
    assert values == [25000, 40000, 50000, 120000]
    assert [round(share, 3) for share in formulas.shares_of_best(values)] == [0.208, 0.333, 0.417, 1]


def test_nothing_has_a_share_when_nothing_is_free() -> None:
    assert formulas.shares_of_best([0.0, 0.0]) == (0.0, 0.0)
    assert formulas.capability(4, 4, 0) == 0.0


def test_weighted_capabilities() -> None:
    """The design's figures come from rounded weights; the last is exactly 2/5 + 20/43 + 5/14 = 1.22226."""
    values = formulas.weighted_capabilities(DEVICES)
    assert [float(v) for v in values] == pytest.approx([0.3925, 0.6003, 0.7849, 1.2222], abs=1e-4)
    assert values[3] == Fraction(2, 5) + Fraction(20, 43) + Fraction(5, 14)


def test_weighted_form_counts_slowness_as_a_plus() -> None:
    """Why it must not decide: of two devices that differ only in speed it prefers the slow one; K does not."""
    slow, fast = formulas.weighted_capabilities([(4, 2, 50), (4, 2, 20)])
    assert slow > fast
    assert formulas.capability(4, 2, 50) < formulas.capability(4, 2, 20)


def test_load() -> None:
    assert [round(formulas.load(c, r), 3) for c, r, _ in DEVICES] == [0.5, 0.467, 0.5, 0.333]


@pytest.mark.parametrize(("cores", "free", "expected"), [(0, 0, 1.0), (4, -1, 1.0), (4, 9, 0.0), (4, 4, 0.0)])
def test_load_stays_within_bounds(cores: float, free: float, expected: float) -> None:
    assert formulas.load(cores, free) == expected


def test_backlog_is_nothing_when_idle_and_finite_when_full() -> None:
    assert formulas.backlog_seconds(0.0, 2.0) == 0.0
    assert formulas.backlog_seconds(0.5, 2.0) == 2.0
    assert formulas.backlog_seconds(1.0, 2.0) == pytest.approx(198.0)


def test_transfer_time() -> None:
    assert [formulas.transfer_time(*parts) for parts in [(5, 10, 3), (8, 12, 4), (3, 15, 6)]] == [18, 24, 24]


def test_link_seconds_counts_bits_and_bytes_apart() -> None:
    """1 MB over 8 Mbit/s takes 1 s; half of it when it packs to half; packing at 4 MB/s adds .25, unpacking at 2 .5."""
    plain = formulas.link_seconds(size=1e6, bandwidth=8e6, rtt=0.1)
    assert plain == pytest.approx(1.1)
    packed = formulas.link_seconds(size=1e6, bandwidth=8e6, rtt=0.1, compressed=0.5, pack_rate=4e6, unpack_rate=2e6)
    assert packed == pytest.approx(0.25 + 0.1 + 0.5 + 0.5)
    assert formulas.link_seconds(size=1e6, bandwidth=None) == 0.0


def test_schedule_matches_the_worked_answer() -> None:
    placed = formulas.schedule(ORDER, SECONDS, TRANSFERS)
    assert [device + 1 for device, _ in placed] == [1, 1, 3, 2, 4]
    assert [end for _, end in placed] == [38, 58, 64, 54, 74]
    assert max(end for _, end in placed) == 74
    assert round(_weighted_sum([end for _, end in placed]), 2) == 162.53


def test_schedule_equals_brute_force_over_all_assignments_and_orders() -> None:
    """Both the sum of P·end and the makespan: all 4^5 assignments, each in all 5! orders."""
    best_sum, best_makespan = float("inf"), float("inf")
    weights = [float(p) for p in formulas.priorities(MARKS)]
    for order in permutations(range(5)):
        for devices in product(range(4), repeat=5):
            free = [0.0] * 4
            total = 0.0
            for task in order:
                device = devices[task]
                free[device] = end = max(free[device], TRANSFERS[device]) + SECONDS[task][device]
                total += weights[task] * end
            best_sum = min(best_sum, total)
            best_makespan = min(best_makespan, *[max(free)])
    ends = [end for _, end in formulas.schedule(ORDER, SECONDS, TRANSFERS)]
    assert _weighted_sum(ends) == pytest.approx(best_sum)
    assert max(ends) == best_makespan


def _weighted_sum(ends: list[float]) -> float:
    return sum(float(p) * end for p, end in zip(formulas.priorities(MARKS), ends, strict=True))


def test_processing_time_and_shares() -> None:
    assert formulas.processing_time(1000, 100) == 10
    edge, node = formulas.processing_shares(100, 1000)
    assert (edge, node) == (Fraction(1, 11), Fraction(10, 11))
    assert formulas.processing_time(float(1100 * edge), 100) == formulas.processing_time(float(1100 * node), 1000)


def test_both_links_at_once_or_one_shared_uplink() -> None:
    assert round(formulas.both_links_time(1000, 100, 500), 3) == 1.667
    assert formulas.both_links_time(1000, 100, 500, uplink=200) == 5
    assert formulas.both_links_time(600, 100, 500, uplink=10_000) == 1


def _split(bandwidth: Fraction, **changes: object) -> formulas.Split | None:
    bounds = {
        "compute": Fraction(15),
        "compute_required": (Fraction(3), Fraction(8)),
        "data": Fraction(6),
        "data_required": (Fraction(1), Fraction(3)),
        "bandwidth": bandwidth,
        "drain_rate": Fraction(1, 10),
    }
    return formulas.split_demand(**{**bounds, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bandwidth", "compute_edge", "data_edge", "share"),
    [(Fraction(2, 5), 3, 2, Fraction(1, 3)), (Fraction(1), 3, 1, Fraction(1, 5))],
)
def test_split_worked_answers(bandwidth: Fraction, compute_edge: int, data_edge: int, share: Fraction) -> None:
    assert _split(bandwidth) == formulas.Split(Fraction(compute_edge), Fraction(data_edge), share)


def test_no_split_when_the_link_is_too_thin_or_the_demand_too_small() -> None:
    assert _split(Fraction(1, 5)) is None, "4 of 6 would have to stay and the cloud needs 3"
    assert _split(Fraction(1), compute=Fraction(10)) is None, "3 + 8 are more than 10"


@given(
    bounds=st.tuples(*[st.integers(0, 5)] * 4),
    demand=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    drains=st.integers(0, 9),
)
def test_split_equals_brute_force(bounds: tuple[int, ...], demand: tuple[int, int], drains: int) -> None:
    c_edge, c_cloud, s_edge, s_cloud = bounds
    compute, data = demand
    found = _split(
        Fraction(drains, 10),
        compute=Fraction(compute),
        compute_required=(Fraction(c_edge), Fraction(c_cloud)),
        data=Fraction(data),
        data_required=(Fraction(s_edge), Fraction(s_cloud)),
    )
    options = [
        (max(Fraction(c, compute) if compute else 0, Fraction(s, data) if data else 0), c, s)
        for c in range(compute + 1)
        for s in range(data + 1)
        if c >= c_edge and compute - c >= c_cloud and s >= s_edge and data - s >= s_cloud and data - s <= drains
    ]
    expected = min(options, default=None)
    assert (found and (found.share, found.compute_edge, found.data_edge)) == expected
