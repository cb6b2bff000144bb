"""Constant load while a version changes: threads that ask all the time, and check every answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from .ask import TASKS
from .kube import StoryError
from .models import ModelFile, reference
from .oip import Client

CLOSE = 2e-3
"""how far a served score may be from the same file's score here; two versions differ by far more"""
_PER_CONNECTION = 8
_LAST_ANSWER_S = 30
"""a client's last request may take so long; its own limit is 10 s"""


@dataclass(kw_only=True)
class Tally:
    """Requests so far that failed, also when the story ends with an error. None until clients asked at all."""

    failed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """Done at `at` (Unix time) after `seconds`; problem is empty when the answer was right."""

    at: float
    seconds: float
    version: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that the clients saw. between: smallest largest-difference of the two versions' scores over the questions."""

    questions: tuple[Question, ...]
    between: float

    @property
    def failed(self) -> tuple[Question, ...]:
        return tuple(item for item in self.questions if item.problem)

    def answered(self, version: str) -> int:
        return sum(item.version == version for item in self.questions)

    def first(self, version: str) -> float:
        return min(item.at for item in self.questions if item.version == version)

    def last(self, version: str) -> float:
        return max(item.at for item in self.questions if item.version == version)

    @property
    def seconds(self) -> float:
        return max(item.at for item in self.questions) - min(item.at - item.seconds for item in self.questions)

    def percentile(self, share: float) -> float:
        """Seconds that an answer took, by rank."""
        found = sorted(item.seconds for item in self.questions)
        return found[min(int(share * len(found)), len(found) - 1)]


class Load:
    """Clients that ask for as long as the context lasts. Every question is new to its thread only in its order."""

    def __init__(
        self,
        job: str,
        urls: Sequence[str],
        questions: Mapping[str, np.ndarray],
        names: Sequence[str],
        *,
        expected: Mapping[str, str],
        versions: tuple[ModelFile, ModelFile],
        threads: int,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally or Tally()
        self._task = TASKS[job]
        self._job, self._urls, self._names = job, list(urls), names
        self._expected = dict(expected)
        self._tensors = {text: self._task.ask(data) for text, data in questions.items()}
        self._right = {model.version: reference(model, self._tensors) for model in versions}
        self._seen: list[Question] = []
        self._stop = threading.Event()
        self._ended_well: list[int] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=_LAST_ANSWER_S)
        self._tally.failed = (self._tally.failed or 0) + sum(bool(item.problem) for item in self._seen)
        lost = len(self._threads) - len(self._ended_well)
        if lost and error is None:
            raise StoryError(f"{lost} of {len(self._threads)} clients did not ask to the end")

    def go_on(self, *, seconds: float, answers: int, limit: float = 30) -> None:
        """For so many seconds and answers more, whichever takes longer. StoryError beyond the limit, in seconds."""
        begun, had = time.monotonic(), len(self._seen)
        while time.monotonic() - begun < seconds or len(self._seen) - had < answers:
            if time.monotonic() - begun > limit:
                raise StoryError(f"{answers} answers did not come within {limit:.0f} s; last: {self._seen[-1:]}")
            time.sleep(0.05)

    def seen(self) -> Seen:
        old, new = self._right.values()
        between = min(float(np.abs(old[text] - new[text]).max()) for text in self._tensors)
        return Seen(questions=tuple(sorted(self._seen, key=lambda item: item.at)), between=between)

    def _ask(self, number: int) -> None:
        texts = list(self._tensors)
        client, asked = Client(self._urls[number % len(self._urls)]), 0
        while not self._stop.is_set():
            text = texts[(asked + 5 * number) % len(texts)]
            self._seen.append(self._one(client, text))
            asked += 1
            if asked % _PER_CONNECTION == 0:  # a Service spreads connections, not requests
                client.close()
                client = Client(self._urls[(number + asked // _PER_CONNECTION) % len(self._urls)])
        client.close()
        self._ended_well.append(number)

    def _one(self, client: Client, text: str) -> Question:
        started = time.perf_counter()
        try:
            answer = client.infer(self._job, name=self._task.input, tensor=self._tensors[text])
            problem = self._problem(text, answer.version, answer.tensor)
        except Exception as error:  # whatever an answer looks like, a thread that ends silently would hide it
            client.close()
            problem = f"{type(error).__name__}: {error}"
            return Question(at=time.time(), seconds=time.perf_counter() - started, version="", problem=problem)
        return Question(at=time.time(), seconds=answer.seconds, version=answer.version, problem=problem)

    def _problem(self, text: str, version: str, scores: np.ndarray) -> str:
        """Empty when the text is right and the scores are those of the version that the answer names."""
        right = self._right.get(version)
        if right is None:
            return f"an answer of version {version!r}, which nobody released"
        said, _ = self._task.read(scores, self._names)
        if said != self._expected[text]:
            return f"{text!r} was answered {said!r} by {version}"
        if scores.shape != right[text].shape:
            return f"scores of shape {scores.shape} from {version}, {right[text].shape} here"
        off = float(np.abs(scores - right[text]).max())
        return "" if off <= CLOSE else f"scores of {version} are {off:.4f} away from what it answers here"
