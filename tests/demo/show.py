"""The story's facts as lines and tables for a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .kube import Object
from .story import Answers, Avoided, FellBack, Loaded, Placed, Rolled
from .survival import Survived

Say = Callable[[str], None]


def table(rows: Sequence[Sequence[str]], *, indent: str = "    ") -> str:
    """Columns as wide as their widest cell; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], indent + "  ".join("-" * width for width in widths), *lines[1:]])


def placed(say: Say, facts: Sequence[Placed]) -> None:
    for item in facts:
        say(
            f"{item.job}: priority tier {item.tier}, on {', '.join(item.nodes)} (sites {', '.join(item.sites)}),"
            f" Ready {item.seconds:.1f} s after kubectl apply"
        )


def answers(say: Say, facts: Answers, expected: dict[str, str], *, shown: int = 12) -> None:
    right = sum(expected[reply.question] == reply.answer for reply in facts.replies)
    say(f"{facts.model} asked {facts.where}: {right} of {len(facts.replies)} answers are right")
    rows = [("asked", "answered", "sure", "version", "ms")]
    rows += [
        (reply.question, reply.error or reply.answer, f"{reply.sure:.3f}", reply.version, f"{reply.seconds * 1000:.1f}")
        for reply in facts.replies[:shown]
    ]
    print(table(rows), flush=True)


def loaded(say: Say, facts: Loaded) -> None:
    say(
        f"{facts.node} is busy: {facts.idle_cores:.2f} -> {facts.busy_cores:.2f} of {facts.cores:g} cores"
        f" in Prometheus after {facts.seconds:.0f} s"
    )


def score_table(explanation: Object) -> str:
    """One column per node: each term's weight times value, their sum, and the figures that they come from."""
    sides = [("chosen", explanation["node"], explanation["terms"], explanation.get("figures") or {})]
    sides += [
        ("runner-up", item["node"], item["terms"], item.get("figures") or {})
        for item in explanation.get("runnersUp", ())
    ]
    rows = [("score", *(f"{node} ({what})" for what, node, _, _ in sides))]
    for index, term in enumerate(explanation["terms"]):
        cells = (
            f"{terms[index]['weight'] / 1000:.3f} x {terms[index]['value'] / 1000:.3f}" for _, _, terms, _ in sides
        )
        rows.append((term["name"], *cells))
    sums = (sum(term["weight"] * term["value"] for term in terms) / 1e6 for _, _, terms, _ in sides)
    rows.append(("= score", *(f"{total:.3f}" for total in sums)))
    for name, label in _FIGURES:
        rows.append((label, *(str(figures.get(name, "-")) for _, _, _, figures in sides)))
    return table(rows)


_FIGURES = (
    ("cores", "C: cores"),
    ("liveCores", "live cores"),
    ("liveAt", "measured at"),
    ("confidence", "confidence, per mille"),
    ("inFlightCores", "in flight, cores"),
    ("requestedCores", "requested, cores"),
    ("freeCores", "R: free cores"),
    ("load", "l = 1 - R/C, per mille"),
    ("capability", "K/max K, per mille"),
)


def avoided(say: Say, facts: Avoided) -> None:
    placed(say, [facts.placed])
    say(f"why {facts.explanation['node']} and not {facts.loaded.node} (kubectl describe ij {facts.placed.job}):")
    print(score_table(facts.explanation), flush=True)
    for item in facts.explanation.get("runnersUp", ()):
        say(f"  {item['node']}: {item['reason']}")
    for item in facts.explanation.get("rejected", ()):
        say(f"  {item['count']} x {item['reason']}: {item['nearestMiss']}")


def rolled(say: Say, facts: Rolled, *, old: str, new: str) -> None:
    seen = facts.seen
    say(
        f"version {new} is everywhere {facts.seconds:.1f} s after kubectl apply; pods"
        f" {'unchanged' if facts.before == facts.after else 'CHANGED'}"
    )
    say(
        f"  first answer by {new} after {seen.first(new) - facts.told_at:.1f} s,"
        f" last one by {old} after {seen.last(old) - facts.told_at:.1f} s"
    )
    say(
        f"  {len(seen.questions)} requests in {seen.seconds:.1f} s: {seen.answered(old)} answered by {old},"
        f" {seen.answered(new)} by {new}, {len(seen.failed)} failed; p50 {seen.percentile(0.5) * 1000:.0f} ms,"
        f" p99 {seen.percentile(0.99) * 1000:.0f} ms"
    )
    say(f"  the two versions' scores differ by {seen.between:.3f} or more on every sign; the signs read are the same")
    for item in seen.failed[:5]:
        say(f"  failed: {item.problem}")


def fell_back(say: Say, facts: FellBack, *, good: str, bad: str) -> None:
    seen, gate = facts.seen, facts.gate
    say(f"version {bad} is taken back {facts.seconds:.1f} s after kubectl apply: {facts.said}")
    if gate:
        say(
            f"  gate {gate['name']}: {gate.get('value')} of {gate['samples']} copies, {gate.get('threshold')};"
            " no Prometheus was asked"
        )
    say(
        f"  {len(seen.questions)} requests meanwhile: {seen.answered(good)} answered by {good}, {seen.answered(bad)} by"
        f" {bad}, {len(seen.failed)} failed; pods {'unchanged' if facts.before == facts.after else 'CHANGED'}"
    )
    for item in seen.failed[:5]:
        say(f"  failed: {item.problem}")


def survived(say: Say, facts: Survived) -> None:
    say(f"{facts.how}: another process leads {facts.took_over:.1f} s later")
    say(
        f"  {facts.watched:.0f} s on, {len(facts.changed)} of {facts.compared} objects (pods, Deployments, Assignments,"
        " statuses ...) have changed"
    )
    for line in facts.changed[:10]:
        say(f"  changed: {line}")
