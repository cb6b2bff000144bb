"""Labels: what an answer should have been, told later by whoever knows.

    POST /v2/models/N[/versions/V]/feedback   {"id": ID OF THE REQUEST, "label": 3}     or "labels": [3, "cat", null]

A label is the number of a class, one of the names in the artifact's labels.txt, or (a regression) a number, one for
each row of the answer; null where nobody knows. docs/capture.md says what becomes of it in each case.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from edgeward_runtime.errors import ProtocolError, bad_request

MOST_BYTES = 64 * 1024
_MOST_ROWS = 1024
_LONGEST_ID = 1024
_LONGEST_LABEL = 256
_LARGEST_CLASS = 2**31

Label = int | float | str | None

JOINED, REPEATED, REPLACED = "Joined", "Repeated", "Replaced"
KEPT, UNKNOWN, UNAVAILABLE = "Kept", "Unknown", "Unavailable"
STATUS = {JOINED: 200, REPEATED: 200, REPLACED: 200, KEPT: 202, UNKNOWN: 404, UNAVAILABLE: 503}
RIGHT, WRONG, UNCOMPARABLE = "Right", "Wrong", "Uncomparable"
RESULTS = (RIGHT, WRONG, UNCOMPARABLE)


@dataclass(frozen=True, slots=True)
class Told:
    id: str
    labels: tuple[Label, ...]


def parse(body: bytes, names: Mapping[str, int], *, text: bool) -> Told:
    """ProtocolError 400 or 413. names: class by its name. text: whether a name that is none of them may be kept."""
    if len(body) > MOST_BYTES:
        raise ProtocolError(413, f"feedback has at most {MOST_BYTES} bytes")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise bad_request("feedback is not JSON") from None
    if not isinstance(document, dict):
        raise bad_request("feedback must be an object with id and label")
    request_id = document.get("id")
    if not isinstance(request_id, str) or not 1 <= len(request_id) <= _LONGEST_ID:
        raise bad_request(f"id must be that of a request, 1 to {_LONGEST_ID} characters")
    if ("label" in document) == ("labels" in document):
        raise bad_request("feedback has either label, or labels with one for each row")
    labels = document["labels"] if "labels" in document else [document["label"]]
    if not isinstance(labels, list) or not 1 <= len(labels) <= _MOST_ROWS:
        raise bad_request(f"labels must be a list of 1 to {_MOST_ROWS}")
    return Told(request_id, tuple(_label(one, names, text) for one in labels))


def _label(value: object, names: Mapping[str, int], text: bool) -> Label:
    if value is None:
        return None
    if type(value) is int and 0 <= value <= _LARGEST_CLASS:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if not isinstance(value, str) or len(value) > _LONGEST_LABEL:
        raise bad_request(f"a label is the number of a class, a name of up to {_LONGEST_LABEL} characters, or null")
    if value in names:
        return names[value]
    if not text:
        # It could say anything, and what the redaction is there for.
        raise bad_request("the label is none of the model's labels, and the redaction in force keeps no other text")
    return value


def judge(classes: Sequence[int], labels: Sequence[Label]) -> list[str]:
    """One of RESULTS for each row that has a label. classes: the answer's, -1 unknown."""
    told = [(index, label) for index, label in enumerate(labels) if label is not None]
    if len(classes) != len(labels):
        return [UNCOMPARABLE] * len(told)
    return [
        UNCOMPARABLE if type(label) is not int or classes[index] < 0 else RIGHT if label == classes[index] else WRONG
        for index, label in told
    ]


Version = tuple[str, str, str]  # model, version, digest


@dataclass(slots=True)
class Remembered:
    version: Version
    classes: tuple[int, ...]
    labels: tuple[Label, ...] | None = None


class Recent:
    """The last answers, by id, and labels that came before theirs. The oldest are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: collections.OrderedDict[str, Remembered] = collections.OrderedDict()
        self._early: collections.OrderedDict[str, tuple[Label, ...]] = collections.OrderedDict()

    def answered(self, request_id: str, answer: Remembered) -> tuple[Label, ...] | None:
        """The label that was there before it, if any. An id that comes again is the later request's."""
        self._answers[request_id] = answer
        self._answers.move_to_end(request_id)
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)
        if not self._early:
            return None
        answer.labels = self._early.pop(request_id, None)
        return answer.labels

    def find(self, request_id: str) -> Remembered | None:
        return self._answers.get(request_id)

    def early(self, told: Told) -> None:
        """For an answer that is not known."""
        self._early[told.id] = told.labels
        if len(self._early) > self._most // 8:
            self._early.popitem(last=False)

    def clear(self) -> None:
        self._answers.clear()
        self._early.clear()


class Accuracy:
    """Rows by version and result. Counters for Prometheus: they only go up, and a label that is told again or
    corrected does not count a second time."""

    _MOST_VERSIONS = 32

    def __init__(self) -> None:
        self.rows: dict[Version, dict[str, int]] = {}
        self.outcomes: dict[str, int] = {}

    def count(self, version: Version, results: Sequence[str]) -> None:
        rows = self.rows.get(version)
        if rows is None:
            # Replaced as a whole: the event loop may be reading it.
            kept = list(self.rows.items())[-self._MOST_VERSIONS + 1 :]
            rows = dict.fromkeys(RESULTS, 0)
            self.rows = {**dict(kept), version: rows}
        for result in results:
            rows[result] += 1

    def outcome(self, outcome: str) -> None:
        self.outcomes = {**self.outcomes, outcome: self.outcomes.get(outcome, 0) + 1}
