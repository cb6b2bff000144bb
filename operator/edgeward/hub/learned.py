"""status.learned: what the runtimes taught. Pure; the lesson decides by itself when it is news."""

from __future__ import annotations

from edgeward.api.common import format_bytes, format_cpu, format_decimal, format_duration, format_time
from edgeward.api.jobstatus import Learned, LearnedSite, RightSizing
from edgeward.fleet.model import Lesson, RightSize


def learned(lesson: Lesson) -> Learned | None:
    """None when nothing was learned yet. Read back by fleet/lessons.py."""
    if lesson == Lesson():
        return None
    return Learned(
        satisfaction=None if lesson.satisfaction is None else round(lesson.satisfaction * 1000),
        window=format_duration(lesson.window) if lesson.window else None,
        service_seconds=_figure(lesson.service_seconds),
        sites=tuple(
            LearnedSite(
                site=item.site,
                execution=_figure(item.execution),
                transfer=_figure(item.transfer),
                samples=item.samples,
                measured_at=format_time(item.at) if item.at else None,
            )
            for item in lesson.sites
        ),
        right_sizing=right_sizing(lesson.right_size) if lesson.right_size else None,
    )


def right_sizing(size: RightSize) -> RightSizing:
    return RightSizing(
        cpu="" if size.cpu is None else format_cpu(size.cpu),
        memory="" if size.memory is None else format_bytes(size.memory),
        basis=size.basis,
    )


def _figure(value: float | None) -> str | None:
    return None if value is None else format_decimal(value)
