"""`edgeward explain` as a person reads it. Pure: a Standing and a Page in, lines out."""

from __future__ import annotations

from collections.abc import Sequence

from edgeward.api.common import format_duration, parse_time
from edgeward.api.conditions import ConditionType
from edgeward.api.jobstatus import Explanation, Figures, RunnerUp, Term

from .asked import asks
from .standing import MISSED, SHOWN_AHEAD, Standing
from .table import Page, place_name

LIKELY = ("more room", "time", "the node back", "the site back", "a larger limit", "another spec")
"""what would place a job, that which asks least of a person's plans first"""


def lines_of(one: Standing, page: Page) -> list[str]:
    blocks = [
        _head(one, page),
        _asked(one, page),
        _waiting(one, page) if one.waits else [],
        _places(one, page),
        _why(one, page),
        _others(one, page),
        _rejected(one, page),
        _under_way(one, page),
        _learned(one, page),
        _doubts(one, page),
    ]
    lines: list[str] = []
    for block in blocks:
        if block:
            lines += [*([""] if lines else []), *block]
    return lines


# What it is ----------------------------------------------------------------------------------------------------------


def _head(one: Standing, page: Page) -> list[str]:
    ready = one.ready
    if ready is None:
        plain, colour, message = "not looked at yet", "yellow", "the operator has not planned for it"
    elif ready.status == "True":
        plain, colour, message = f"Ready ({ready.reason})", "green", ready.message
    else:
        plain, colour, message = f"not Ready: {ready.reason}", "red", ready.message
    state = page.paint(plain, colour)
    beside = len(one.key) + 2 + len(plain) <= page.width
    lines = [f"{page.title(one.key)}  {state}"] if beside else [page.title(one.key), f"  {state}"]
    # While it waits, the message stands where the waiting is told.
    if message and not one.waits:
        lines += page.wrap(message)
    if one.job.status.observed_generation not in (0, one.job.generation):
        lines += page.wrap("the spec was changed since; what follows is about the one before")
    return lines


def _asked(one: Standing, page: Page) -> list[str]:
    rows = list(asks(one.job))
    marks, status = one.job.spec.priority, one.job.status
    text = f"importance {marks.importance}, urgency {marks.urgency}, satisfaction {marks.satisfaction}"
    if status.explanation and status.explanation.order:
        text += f"; {status.explanation.order}"
    elif status.priority:
        text += f"; priority tier {status.priority.tier}, P {status.priority.score / 1000:.3f}"
    rows.append(("priority", text))
    return [page.title("Asks for"), *page.table(("", ""), rows)]


# While it waits --------------------------------------------------------------------------------------------------------


def _waiting(one: Standing, page: Page) -> list[str]:
    ready = one.ready
    reason = ready.reason if ready else "PendingEvaluation"
    lines = [page.title("Waits: ") + page.paint(reason, "red")]
    if ready and ready.message:
        lines += page.wrap(ready.message)
    placed = one.condition(ConditionType.PLACED)
    if placed is not None and placed.last_transition_time:
        lines += page.wrap(f"since {_ago(placed.last_transition_time, one.now)}")
    lines += _ahead(one, page)
    would = what_would_place(one)
    if would:
        lines.append("  what would place it:")
        for line in would:
            lines += page.wrap(f"- {line}", indent="    ")
    return lines


def _ahead(one: Standing, page: Page) -> list[str]:
    if one.ahead is None:
        return page.wrap(
            "who is ahead: the jobs of other namespaces are not yours to list; the order above tells the nearest"
        )
    if not one.ahead:
        return page.wrap("nobody is ahead of it")
    shown = one.ahead[:SHOWN_AHEAD]
    lines = [f"  ahead of it ({len(one.ahead)}):"]
    lines += page.table(
        ("JOB", "TIER", "P", "REPLICAS", "READY"),
        [
            (item.job, str(item.tier), f"{item.p:.3f}", str(item.replicas), "yes" if item.ready else "no")
            for item in shown
        ],
        indent="    ",
        right=frozenset({1, 2, 3}),
    )
    if len(one.ahead) > len(shown):
        lines.append(f"    and {len(one.ahead) - len(shown)} more")
    return lines


def what_would_place(one: Standing) -> list[str]:
    """The next things to try, from what the nodes miss; nothing when the reason is not one of room."""
    status = one.job.status
    reason = one.ready.reason if one.ready else ""
    what_if = "to try: kubectl edgeward what-if"
    if reason == "NoRunnableModel":
        return [f"a version in ModelRelease {one.job.spec.model.name}: kubectl describe mr {one.job.spec.model.name}"]
    if reason in ("InvalidSpec", "PolicyForbids", "FeatureNotYetAvailable", "ResidencyForbids"):
        return ["another spec: the message names the field"]
    if reason == "QuotaExceeded":
        return ["a larger quota: the message names whose it is"]
    if status.nomination is not None:
        return [f"its place on {status.nomination.node} becoming free, see below"]
    rejected = status.explanation.rejected if status.explanation else ()
    told = [(MISSED.get(item.reason, "another spec"), item) for item in rejected if item.nearest_miss]
    told.sort(key=lambda entry: LIKELY.index(entry[0]))
    found = [f"{answer}: {item.nearest_miss} ({_many(item.count, 'node')}: {item.reason})" for answer, item in told]
    tier = next(iter(one.job.spec.placement.tiers), "edge")
    return [*found, f"{what_if} --add-node tier={tier},cpu=4,memory=8Gi"]


# Where it is and why -----------------------------------------------------------------------------------------------------


def _places(one: Standing, page: Page) -> list[str]:
    status = one.job.status
    if not status.decisions:
        return []
    rows = [
        (
            item.site,
            item.tier or "-",
            f"{item.ready_replicas}/{item.replicas}",
            f"{item.score / 1000:.3f}",
            _ago(item.since, one.now) if item.since else "-",
            ", ".join(map(place_name, item.nodes)),
        )
        for item in status.decisions
    ]
    lines = [page.title("Where"), *page.table(("SITE", "TIER", "SERVE", "SCORE", "DECIDED", "NODES"), rows)]
    if status.decisions_omitted:
        lines.append(
            f"  and {_many(status.decisions_omitted, 'more site')}: kubectl get assignments -A -l edgeward.dev/job"
        )
    return lines


def _why(one: Standing, page: Page) -> list[str]:
    said = one.job.status.explanation
    if said is None or not said.node:
        return []
    when = f", as decided {_ago(said.decided_at, one.now)}" if said.decided_at else ""
    lines = [page.title(f"Why {place_name(said.node)}") + when]
    rows = [
        (
            item.name,
            f"{item.weight / 1000:.3f}",
            f"{item.value / 1000:.3f}",
            f"{_gives(item):.3f}",
            _from(item, said, one),
        )
        for item in said.terms
    ]
    total = sum(_gives(item) for item in said.terms)
    rows.append(("score", "", "", f"{total:.3f}", "the sum; 1 is the best that there can be"))
    lines += page.table(("TERM", "WEIGHT", "VALUE", "GIVES", "FROM"), rows, right=frozenset({1, 2, 3}))
    if said.share_of_bound is not None:
        tier = one.job.status.priority
        of = f"priority tier {tier.tier}" if tier else "its priority tier"
        lines += page.wrap(f"{of} reaches {said.share_of_bound / 10:.1f}% of what no plan can surpass")
    return lines


def _gives(term: Term) -> float:
    return term.weight * term.value / 1_000_000


def _from(term: Term, said: Explanation, one: Standing) -> str:
    """The figures behind a term of the chosen node, and how old they are."""
    figures = said.figures
    spec = one.job.spec
    if figures is None:
        return ""
    if term.name == "headroom":
        return f"{figures.requested_cores} of {figures.cores} cores requested"
    if term.name == "load":
        return f"{figures.free_cores} of {figures.cores} cores free: {_live(figures, said)}"
    if term.name == "completion":
        if figures.completion_seconds is None:
            return "no request was measured yet: by load and speed"
        transfer = f", {figures.transfer_seconds} s of them on the way" if figures.transfer_seconds else ""
        return f"{figures.completion_seconds} s for a request{transfer}"
    if term.name == "model":
        return "in the node's store" if term.value else f"{spec.model.name} is to be fetched there"
    if term.name == "spread":
        return (
            "no other replica of the job is near"
            if term.value == 1000
            else "others of the job are on the node or at its site"
        )
    if term.name == "stay":
        return "it is there already" if term.value else "it is new there"
    if term.name == "transfer" and figures.transfer_seconds is not None:
        return f"{figures.transfer_seconds} s on the way"
    if term.name == "failure":
        return "nothing failed to come up there of late" if term.value == 1000 else "some did not come up there of late"
    return {
        "transfer": "seconds on the way are not known",
        "latency": "round trip to where the data comes from",
        "gravity": "how near it is to where the data comes from",
        "cost": "price of its cores and of what leaves the site",
        "energy": "watts of a busy core",
    }.get(term.name, "")


def _live(figures: Figures, said: Explanation) -> str:
    if figures.live_cores is None or figures.live_at is None:
        return "no live figure, so by requests"
    text = f"{figures.live_cores} in use"
    if said.decided_at:
        text += f", measured {_span(parse_time(said.decided_at) - parse_time(figures.live_at))} before"
    if figures.confidence < 1000:
        text += f", believed to {figures.confidence / 10:.0f}%"
    if float(figures.in_flight_cores):
        text += f", {figures.in_flight_cores} on their way in"
    return text


# Why not elsewhere -------------------------------------------------------------------------------------------------------


def _others(one: Standing, page: Page) -> list[str]:
    said = one.job.status.explanation
    if said is None or not said.runners_up:
        return []
    rows = [
        (place_name(item.node), item.site, f"{item.score / 1000:.3f}", f"{item.reason}{_would_win(item, said)}")
        for item in said.runners_up
    ]
    return [
        page.title("Fits as well"),
        *page.table(("NODE", "SITE", "SCORE", "WHY NOT, AND WHAT WOULD CHANGE IT"), rows, right=frozenset({2})),
    ]


def _would_win(other: RunnerUp, said: Explanation) -> str:
    """The smallest rise of one term that would make up for the difference, if one alone can."""
    gap = sum(map(_gives, said.terms)) - sum(map(_gives, other.terms))
    if gap <= 0:
        return ""
    rises = [
        (term.value / 1000 + gap * 1000 / term.weight, term)
        for term in other.terms
        if term.weight and term.name != "stay" and term.value / 1000 + gap * 1000 / term.weight <= 1
    ]
    if not rises:
        return f"; {gap:.3f} behind, more than any one term can make up"
    value, term = min(rises, key=lambda entry: entry[0] - entry[1].value / 1000)
    return f"; level from {term.name} {value:.3f}{_means(term, value, other.figures)} on, now {term.value / 1000:.3f}"


def _means(term: Term, value: float, figures: Figures | None) -> str:
    if term.name != "load" or figures is None:
        return ""
    return f" ({value * float(figures.cores):.2f} of {figures.cores} cores free, {figures.free_cores} are)"


def _rejected(one: Standing, page: Page) -> list[str]:
    said = one.job.status.explanation
    if said is None or not said.rejected:
        return []
    rows = [(str(item.count), item.reason, item.nearest_miss) for item in said.rejected]
    return [page.title("Does not fit"), *page.table(("NODES", "REASON", "NEAREST MISS"), rows, right=frozenset({0}))]


# What is under way ---------------------------------------------------------------------------------------------------------


def _under_way(one: Standing, page: Page) -> list[str]:
    status, rows = one.job.status, list[tuple[str, str]]()
    for item in status.exclusions:
        until = parse_time(item.until)
        when = f"tried again in {_span(until - one.now)}" if until > one.now else "may be tried again"
        times = f", {item.count} times in a row" if item.count > 1 else ""
        said = f": {item.message}" if item.message else ""
        rows.append(("left out", f"{item.node}{times}, {when}; {item.reason}{said}"))
    if status.proposed_move is not None:
        move = status.proposed_move
        rows.append(
            (
                "proposed",
                f"a move from {move.source} to {move.target}: found {_many(move.evaluations, 'time')} in a row, last "
                f"{_ago(move.last_at, one.now)}; it is made when the gain lasts, the replica has been where it is for long "
                "enough, and the hour's moves allow it",
            )
        )
    if status.nomination is not None:
        claim = status.nomination
        rows.append(
            (
                "nominated",
                f"{claim.node} at {claim.site} is being made free by {', '.join(claim.victims) or 'nobody'}; "
                f"the claim ends in {_span(max(parse_time(claim.until) - one.now, 0))}",
            )
        )
    if status.moves is not None and status.moves.count:
        since = f" since {_ago(status.moves.window_start, one.now)}" if status.moves.window_start else ""
        rows.append(("moved", f"{_many(status.moves.count, 'time')}{since}"))
    if status.scaling is not None:
        scaling = status.scaling
        rate = f"{scaling.arrivals or '?'} requests a second arrive, {scaling.throughput or '?'} go through a replica"
        low = f"; fewer would do since {_ago(scaling.low_since, one.now)}" if scaling.low_since else ""
        said = f" ({scaling.message})" if scaling.message else ""
        rows.append(("scaling", f"{_many(scaling.replicas, 'replica')}: {rate}{low}{said}"))
    return [page.title("Under way"), *page.table(("", ""), rows)] if rows else []


def _learned(one: Standing, page: Page) -> list[str]:
    learned, rows = one.job.status.learned, list[tuple[str, str]]()
    if learned is None:
        return []
    if learned.satisfaction is not None:
        window = f" of the last {learned.window}" if learned.window else ""
        rows.append(
            ("satisfaction", f"{learned.satisfaction / 10:.1f}% of the requests{window} were within the promise")
        )
    for item in learned.sites:
        parts = [f"execution takes {item.execution} times the predicted time"] if item.execution else []
        parts += [f"transfer {item.transfer} times"] if item.transfer else []
        rows.append((f"at {item.site}", f"{', '.join(parts)} ({_many(item.samples, 'request')})"))
    if learned.right_sizing is not None:
        size = learned.right_sizing
        wanted = ", ".join([*([f"cpu {size.cpu}"] * bool(size.cpu)), *([f"memory {size.memory}"] * bool(size.memory))])
        rows.append(("proposal", f"requests of {wanted} would do ({size.basis}); nothing applies this by itself"))
    return [page.title("Learned"), *page.table(("", ""), rows)] if rows else []


def _doubts(one: Standing, page: Page) -> list[str]:
    said = one.job.status.explanation
    lines: list[str] = []
    ignored = one.condition(ConditionType.FEATURES_IGNORED)
    fresh = one.condition(ConditionType.METRICS_FRESH)
    notes: Sequence[str] = said.notes if said else ()
    told = [*notes]
    if fresh is not None and fresh.status == "False" and fresh.message and fresh.message not in told:
        told.append(fresh.message)
    if ignored is not None and ignored.status == "True":
        told.append(ignored.message)
    for note in told:
        lines += page.wrap(f"- {note}")
    return [page.title("Worth knowing"), *lines] if lines else []


# Small words ---------------------------------------------------------------------------------------------------------------


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _ago(time: str, now: float) -> str:
    return f"{_span(max(now - parse_time(time), 0))} ago"


def _span(seconds: float) -> str:
    """Two units at most: 3d4h, 5h12m, 3m10s."""
    whole = max(round(seconds), 0)
    if whole >= 86_400:
        return f"{whole // 86_400}d{whole % 86_400 // 3600}h"
    return format_duration(whole - whole % 60 if whole >= 3600 else whole)
