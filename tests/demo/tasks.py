"""What the demo's models take and give: pixels and bytes to tensors, tensors to words. numpy only, as it runs in pods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEATURES = {"beg_size": 1024, "mid_size": 0, "end_size": 1024, "padding_token": 256, "block_size": 4096}
"""the file sorter's features, as its own configuration names them; models.prepare holds the two against each other"""
SIGN_HEIGHT = 48
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def sign_tensor(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB [48, W, 3] -> float32 [1, 3, 48, W], BGR in -1..1, as PP-OCR's recogniser was trained."""
    scaled = pixels[:, :, ::-1].astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def read_sign(scores: np.ndarray, characters: Sequence[str]) -> tuple[str, float]:
    """[1, steps, classes] -> the text and how sure the reader is (mean over the characters, 0 when it read none).

    Greedy CTC (Graves et al. 2006): the best class per step, repeats merged, blanks dropped. Class 0 is the blank, then
    the characters, then a space. A space at either end is the plate's margin.
    """
    best = scores[0].argmax(axis=1)
    sure = scores[0].max(axis=1)
    text, kept, before = [], [], 0
    for step, label in enumerate(best.tolist()):
        if label not in (0, before):
            text.append(characters[label - 1] if label <= len(characters) else " ")
            kept.append(float(sure[step]))
        before = label
    return "".join(text).strip(), float(np.mean(kept)) if kept else 0.0


def file_tensor(data: bytes) -> np.ndarray:
    """The first and the last 1024 bytes without white space around them -> int32 [1, 2048], padded with 256."""
    size, pad, block = FEATURES["beg_size"], FEATURES["padding_token"], FEATURES["block_size"]
    begin = data[:block].lstrip()[:size]
    end = data[-block:].rstrip()[-FEATURES["end_size"] :]
    features = [*begin, *[pad] * (size - len(begin)), *[pad] * (FEATURES["end_size"] - len(end)), *end]
    return np.array([features], np.int32)


def name_file(scores: np.ndarray, names: Sequence[str]) -> tuple[str, float]:
    best = int(scores[0].argmax())
    return names[best], float(scores[0, best])


def page_tensor(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB [224, 224, 3] -> float32 [1, 3, 224, 224], normalised with ImageNet's mean and deviation."""
    scaled = (pixels.astype(np.float32) / np.float32(255) - _MEAN) / _DEVIATION
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
