"""What a job's status remembers of what was learned, in units."""

from __future__ import annotations

from edgeward.api.common import parse_bytes, parse_cpu, parse_decimal, parse_time, seconds
from edgeward.api.jobstatus import InferenceJobStatus, Learned

from .model import Lesson, RightSize, SiteLesson


def lesson(status: InferenceJobStatus) -> Lesson:
    """As it was told last. Only the operator writes it; what cannot be read was never learned."""
    try:
        return _lesson(status.learned) if status.learned else Lesson()
    except ValueError:
        return Lesson()


def _lesson(told: Learned) -> Lesson:
    size = told.right_sizing
    return Lesson(
        service_seconds=_number(told.service_seconds),
        satisfaction=None if told.satisfaction is None else told.satisfaction / 1000,
        window=seconds(told.window) if told.window else 0.0,
        sites=tuple(
            SiteLesson(
                site=item.site,
                execution=_number(item.execution),
                transfer=_number(item.transfer),
                samples=item.samples,
                at=parse_time(item.measured_at) if item.measured_at else 0.0,
            )
            for item in told.sites
        ),
        right_size=RightSize(
            cpu=parse_cpu(size.cpu) if size.cpu else None,
            memory=parse_bytes(size.memory) if size.memory else None,
            basis=size.basis,
        )
        if size
        else None,
    )


def _number(text: str | None) -> float | None:
    return None if text is None else float(parse_decimal(text))
