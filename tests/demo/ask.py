"""Asks a served model and says what it answered. Runs in a pod, out of a zip file with nothing but numpy beside it.

`python client.zip sign-reader http://sign-reader.demo.svc INPUTS.npz` prints one JSON line per question.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from .oip import Client, InferError
from .tasks import file_tensor, name_file, page_tensor, read_sign, sign_tensor


@dataclass(frozen=True)
class Task:
    """How a question becomes a tensor, and a tensor an answer with how sure the model is."""

    input: str
    ask: Callable[[np.ndarray], np.ndarray]
    read: Callable[[np.ndarray, Sequence[str]], tuple[str, float]]


TASKS = {
    "sign-reader": Task("x", sign_tensor, read_sign),
    "file-sorter": Task("bytes", lambda data: file_tensor(data.tobytes()), name_file),
    "page-turner": Task("x", page_tensor, name_file),
}


@dataclass(frozen=True)
class Reply:
    """error is empty when there was an answer."""

    question: str
    answer: str = ""
    sure: float = 0.0
    version: str = ""
    seconds: float = 0.0
    error: str = ""


def ask(model: str, url: str, questions: Mapping[str, np.ndarray], names: Sequence[str]) -> Iterator[Reply]:
    """questions: what is asked -> pixels or bytes as uint8; names: what the model's classes stand for."""
    task, client = TASKS[model], Client(url)
    for question, data in questions.items():
        try:
            answer = client.infer(model, name=task.input, tensor=task.ask(data))
        except InferError as error:
            yield Reply(question, error=str(error))
            continue
        text, sure = task.read(answer.tensor, names)
        yield Reply(question, text, sure, answer.version, answer.seconds)
    client.close()


def pack(questions: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """What main() reads, as arrays for numpy's npz. The names go as one text: some characters are zeros to numpy."""
    arrays = {f"q{number}": data for number, data in enumerate(questions.values())}
    texts = {"questions": list(questions), "names": list(names)}
    return {**arrays, "texts": np.frombuffer(json.dumps(texts).encode(), np.uint8)}


def main(arguments: Sequence[str]) -> int:
    model, url, path = arguments
    with np.load(path) as found:
        texts = json.loads(found["texts"].tobytes())
        questions = {text: found[f"q{number}"] for number, text in enumerate(texts["questions"])}
    for reply in ask(model, url, questions, texts["names"]):
        print(json.dumps(asdict(reply)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
