"""What must hold for every fleet that can exist."""

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.fleet.model import Fleet, Job, Live, Node, Priority, ProposedMove, Resources, Sample
from edgeward.placement import JobPlan, Plan, plan
from edgeward.placement.ask import Ask
from edgeward.placement.constraints import CHECKS, SPEC_CHECKS, STATE_CHECKS, first_miss
from edgeward.placement.freshness import confidence
from edgeward.placement.ledger import Ledger
from edgeward.placement.settings import PlanSettings
from tests.unit.placement.strategies import NOW, applied, fleets, inconsistencies

few = settings(database=None)
SETTINGS = PlanSettings()


def healthy(one: Fleet) -> Plan:
    """A plan in which no job made the planner fail: the net under odd jobs must not hide a fault of ours."""
    decided = plan(one)
    assert not [j.message for j in decided.jobs if j.reason == "PendingEvaluation"]
    return decided


def spots(decided: JobPlan) -> Counter[tuple[str, str, bool]]:
    return Counter({(p.site, p.node, p.lost): p.replicas for p in decided.placements})


def incumbents(one: Job) -> Counter[tuple[str, str]]:
    return Counter({(p.site, p.node): p.replicas for p in one.placed})


def arrivals(one: Fleet, decided: Plan) -> list[tuple[Job, str, str, int]]:
    """(job, site, node, replicas) that were not there before."""
    found = []
    for j in one.jobs:
        mine = decided.job(j.key)
        assert mine is not None
        before = incumbents(j)
        for p in mine.placements:
            extra = p.replicas - before[p.site, p.node]
            if extra > 0:
                found.append((j, p.site, p.node, extra))
    return found


def settled(one: Fleet) -> Fleet:
    """Apply plans until one changes nothing: what leaves frees room that others were waiting for."""
    for _ in range(10):
        decided = healthy(one)
        after = applied(one, decided)
        if [j.placed for j in after.jobs] == [j.placed for j in one.jobs]:
            return one
        one = after
    raise AssertionError("ten plans in a row each changed something")


def test_the_checker_refuses_fleets_that_cannot_exist() -> None:
    sound = Fleet(now=NOW)
    assert inconsistencies(sound) == []
    lone = Node("n", "nowhere", "edge", foreign=Resources(cpu=1))
    assert len(inconsistencies(replace(sound, nodes=(lone, lone)))) == 4


@few
@given(fleets())
def test_new_replicas_never_exceed_capacity_and_always_fit_every_constraint(one: Fleet) -> None:
    decided = healthy(one)
    came = arrivals(one, decided)
    ledger = Ledger(one, SETTINGS)
    used = {(s.site.name, s.node.name): s.requested for s in ledger.states}
    for j, site, name, count in came:
        state = ledger.find(site, name)
        assert state is not None
        ask = Ask(one.jobs.index(j), j, ledger)
        assert first_miss(ask, state, (*SPEC_CHECKS, *STATE_CHECKS)) is None
        used[site, name] += j.request.times(count)
    for _, site, name, _ in came:
        state = ledger.find(site, name)
        assert state is not None and state.node.allocatable.covers(used[site, name])


@few
@given(fleets())
def test_every_replica_is_accounted_for(one: Fleet) -> None:
    decided = healthy(one)
    for j in one.jobs:
        mine = decided.job(j.key)
        assert mine is not None
        there = sum(p.replicas for p in mine.placements if not p.lost)
        assert mine.missing == max(0, mine.wanted - there)
        assert bool(mine.missing) <= bool(mine.reason), "what is missing has a reason"
        assert bool(mine.reason) == bool(mine.message)
        frozen = {s.name for s in one.sites if s.frozen}
        if there > mine.wanted:
            assert all(p.site in frozen for p in mine.placements)


@few
@given(fleets())
def test_planning_an_applied_plan_again_is_the_identity(one: Fleet) -> None:
    calm = settled(one)
    again = healthy(calm)
    for j in calm.jobs:
        mine = again.job(j.key)
        assert mine is not None
        assert {(p.site, p.node, p.replicas, p.since) for p in mine.placements} == {
            (p.site, p.node, p.replicas, p.since) for p in j.placed
        }
    assert again == healthy(calm)


@few
@given(fleets(), st.floats(0, 1e5))
def test_stale_or_missing_data_never_causes_a_move(one: Fleet, age: float) -> None:
    """Even with a move that was proposed often enough for every pair, nothing leaves on figures that are not fresh."""
    calm = settled(one)
    fresh = confidence(age, scrape_interval=calm.scrape_interval, settings=SETTINGS) >= 1

    def spoil(n: Node, index: int) -> Node:
        if index % 2 or n.live.cpu is None:
            return replace(n, live=Live())
        return replace(n, live=Live(cpu=replace(n.live.cpu, at=calm.now - age)))

    nodes = tuple(spoil(n, i) for i, n in enumerate(calm.nodes))
    blind = {n.name for n in nodes if n.live.cpu is None}
    names = [n.name for n in calm.nodes]
    for source in names:
        for target in names:
            hint = ProposedMove(source, target, 3, calm.now - 60)
            jobs = tuple(replace(j, proposed=hint) for j in calm.jobs)
            decided = healthy(replace(calm, nodes=nodes, jobs=jobs))
            for j in decided.jobs:
                assert not j.moved or fresh
                assert not {m.source for m in j.moved} & blind
                assert not {m.target for m in j.moved} & blind


@few
@given(fleets(), st.floats(31, 1e5))
def test_old_memory_beside_fresh_cpu_never_causes_a_move(one: Fleet, age: float) -> None:
    """Every other node has memory that is `age` old; whatever the cpu says, nothing goes there or leaves there."""
    calm = settled(one)

    def measured(n: Node, index: int) -> Node:
        cores, bytes_ = n.allocatable.cpu / 1000, float(n.allocatable.memory)
        cpu = Sample(cores * (0.05 if index % 3 else 0.97), calm.now - 5)
        return replace(n, live=Live(cpu=cpu, memory=Sample(0.3 * bytes_, calm.now - (age if index % 2 else 5))))

    nodes = tuple(measured(n, i) for i, n in enumerate(calm.nodes))
    old = {n.name for n in nodes[1::2]}
    for source in calm.nodes:
        for target in calm.nodes:
            hint = ProposedMove(source.name, target.name, 3, calm.now - 60)
            jobs = tuple(replace(j, proposed=hint) for j in calm.jobs)
            moved = [m for j in healthy(replace(calm, nodes=nodes, jobs=jobs)).jobs for m in j.moved]
            assert not {m.source for m in moved} & old
            assert not {m.target for m in moved} & old


@few
@given(fleets())
def test_a_quota_is_never_exceeded_by_more_than_it_was(one: Fleet) -> None:
    """What stays for want of another node counts as much as what comes."""
    decided = healthy(one)
    lost = {(j.key, p.site, p.node) for j in decided.jobs for p in j.placements if p.lost}
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for j in one.jobs:
        for held in j.placed:
            if (j.key, held.site, held.node) not in lost:
                before[held.site] += held.replicas
        mine = decided.job(j.key)
        assert mine is not None
        for p in mine.placements:
            after[p.site] += 0 if p.lost else p.replicas
    for site in one.sites:
        if site.quota_replicas is not None:
            assert after[site.name] <= max(site.quota_replicas, before[site.name])
    most = one.namespaces[0].max_replicas
    assert most is None or after.total() <= max(most, before.total())


@few
@given(fleets())
def test_no_spread_is_left_unmended_that_could_be_mended(one: Fleet) -> None:
    calm = settled(one)
    ledger = Ledger(calm, SETTINGS)
    for index, j in enumerate(calm.jobs):
        mine = healthy(calm).job(j.key)
        assert mine is not None
        states = [ledger.find(p.site, p.node) for p in j.placed]
        if j.per_site or j.min_sites is None or not j.model_digest or mine.missing or mine.reason or not states:
            continue
        if any(s is None or not s.node.ready or not s.site.connected or s.site.frozen for s in states):
            continue
        used = {p.site for p in j.placed}
        if len(used) >= min(j.min_sites, j.replicas):
            continue
        ask = Ask(index, j, ledger)
        others = [s for s in ledger.states if s.site.name not in used]
        assert all(first_miss(ask, s, CHECKS) is not None for s in others)


@few
@given(fleets())
def test_losing_all_metrics_removes_and_moves_nothing(one: Fleet) -> None:
    calm = settled(one)
    dark = replace(calm, nodes=tuple(replace(n, live=Live()) for n in calm.nodes), metrics_problem="down")
    decided = healthy(dark)
    for j in calm.jobs:
        mine = decided.job(j.key)
        assert mine is not None
        now = Counter({(p.site, p.node): p.replicas for p in mine.placements})
        assert not incumbents(j) - now


@few
@given(fleets(), st.data())
def test_a_removed_site_loses_only_its_own(one: Fleet, data: st.DataObject) -> None:
    calm = settled(one)
    gone = data.draw(st.sampled_from([s.name for s in calm.sites]))
    names = {n.name for n in calm.nodes if n.site == gone}
    jobs = tuple(
        replace(j, placed=tuple(replace(p, lost_since=calm.now - 1e6) if p.node in names else p for p in j.placed))
        for j in calm.jobs
    )
    rest = replace(
        calm,
        jobs=jobs,
        sites=tuple(s for s in calm.sites if s.name != gone),
        nodes=tuple(n for n in calm.nodes if n.site != gone),
    )
    decided = healthy(rest)
    for j in rest.jobs:
        mine = decided.job(j.key)
        assert mine is not None
        now = Counter({(p.site, p.node): p.replicas for p in mine.placements})
        others = Counter({spot: n for spot, n in incumbents(j).items() if spot[0] != gone})
        frozen = any(s.frozen and s.name == gone for s in calm.sites)
        assert not others - now
        assert frozen or not [p for p in mine.placements if p.site == gone]


@few
@given(fleets(), st.integers(0, 1000))
def test_a_job_of_a_lower_tier_changes_no_placement_of_a_higher_one(one: Fleet, pick: int) -> None:
    calm = settled(one)
    low = Job("test", "newcomer", "uid-low", replicas=1 + pick % 4, priority=Priority(1, 1, 1), model_digest="x",
              request=Resources(100 + pick, 1000, 1))  # fmt: skip
    before, after = healthy(calm), healthy(replace(calm, jobs=(*calm.jobs, low)))
    for mine in before.jobs:
        other = after.job(mine.key)
        assert other is not None
        if mine.priority_tier > 1:
            assert (other.placements, other.missing) == (mine.placements, mine.missing)


@few
@given(fleets(running=False))
def test_a_higher_tier_is_never_unplaced_while_a_lower_one_got_a_place_it_could_use(one: Fleet) -> None:
    """Without incumbents: taking all lower tiers away must not let a higher tier place more."""
    whole = healthy(one)
    for tier in {j.priority_tier for j in whole.jobs}:
        higher = tuple(j for j in one.jobs if (whole.job(j.key) or whole.jobs[0]).priority_tier >= tier)
        alone = healthy(replace(one, jobs=higher))
        missing = sum(j.missing for j in whole.jobs if j.priority_tier > tier)
        assert missing == sum(j.missing for j in alone.jobs if j.priority_tier > tier)


@few
@given(fleets(), st.randoms(use_true_random=False))
def test_renaming_nodes_changes_no_count_per_class_and_no_score(one: Fleet, random: object) -> None:
    names = [n.name for n in one.nodes]
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    new = dict(zip(names, shuffled, strict=True))
    renamed = replace(
        one,
        nodes=tuple(replace(n, name=new[n.name]) for n in one.nodes),
        jobs=tuple(replace(j, placed=tuple(replace(p, node=new[p.node]) for p in j.placed)) for j in one.jobs),
    )
    before, after = healthy(one), healthy(renamed)

    def classes(decided: Plan, source: Fleet) -> list[object]:
        like = {(n.site, n.name): (repr(replace(n, name="", live=Live())), repr(n.live)) for n in source.nodes}
        return [
            (
                j.key,
                j.missing,
                j.reason,
                sorted((like[p.site, p.node], p.replicas, p.score, p.lost) for p in j.placements),
            )
            for j in decided.jobs
        ]

    assert classes(before, one) == classes(after, renamed)


@few
@given(fleets())
def test_scores_terms_and_explanations_stay_within_their_bounds(one: Fleet) -> None:
    for j in healthy(one).jobs:
        seen = j.explanation
        assert len(seen.runners_up) <= 3
        assert len(seen.rejected) <= 10
        assert all(0 <= p.score <= 1 and p.replicas > 0 for p in j.placements)
        every = [seen.terms, *(r.terms for r in seen.runners_up)]
        for terms in every:
            for term in terms:
                assert 0 <= term.weight <= 1 and 0 <= term.value <= 1 and 0 <= term.confidence <= 1
        chosen = next((p for p in j.placements if p.node == seen.node and not p.lost), None)
        if seen.terms:
            assert chosen is not None
            assert not j.moved
            assert abs(sum(t.weight * t.value for t in seen.terms) - chosen.score) < 1e-6
