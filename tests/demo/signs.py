"""Road signs and pages, rendered: the same seed gives the same pixels. What is on them is known, so answers are checked."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .tasks import SIGN_HEIGHT

SEED = 20240611
_MARGIN = 24
_FONT_SIZE = 52
_WIDTH_STEP = 8  # the recogniser halves the width three times

RED, BLUE, GREEN, YELLOW, WHITE, BLACK = (
    (176, 28, 36), (20, 70, 150), (16, 104, 62), (244, 196, 30), (246, 246, 242), (18, 18, 18),
)  # fmt: skip

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Plate:
    """What is written on a sign, in which colours."""

    text: str
    ink: Colour
    ground: Colour


PLATES = (
    Plate(text="STOP", ink=WHITE, ground=RED),
    Plate(text="YIELD", ink=RED, ground=WHITE),
    Plate(text="SPEED LIMIT 25", ink=BLACK, ground=WHITE),
    Plate(text="SPEED LIMIT 55", ink=BLACK, ground=WHITE),
    Plate(text="ONE WAY", ink=WHITE, ground=BLACK),
    Plate(text="DO NOT ENTER", ink=WHITE, ground=RED),
    Plate(text="ROAD WORK AHEAD", ink=BLACK, ground=YELLOW),
    Plate(text="EXIT 42", ink=WHITE, ground=GREEN),
    Plate(text="MAIN STREET", ink=WHITE, ground=GREEN),
    Plate(text="HARBOUR ROAD", ink=WHITE, ground=BLUE),
    Plate(text="NO PARKING", ink=RED, ground=WHITE),
    Plate(text="DETOUR", ink=BLACK, ground=YELLOW),
)


@dataclass(frozen=True, kw_only=True)
class Sign:
    """pixels: uint8 RGB [48, W, 3]."""

    text: str
    pixels: np.ndarray


def road_signs(*, seed: int = SEED) -> list[Sign]:
    """One sign per plate."""
    chance = random.Random(seed)
    return [_render(plate, chance) for plate in PLATES]


def calibration_signs(*, count: int = 24) -> list[Sign]:
    """Other takes of the same plates: none of them is among road_signs()."""
    chance = random.Random(SEED + 1)
    return [_render(PLATES[number % len(PLATES)], chance) for number in range(count)]


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # comes with Pillow, so every machine renders the same


def _render(plate: Plate, chance: random.Random) -> Sign:
    """The plate as a camera sees it: a little crooked, a little out of focus, with a sensor's noise."""
    font = _font(_FONT_SIZE)
    left, top, right, bottom = font.getbbox(plate.text)
    size = (int(right - left) + 2 * _MARGIN, int(bottom - top) + 2 * _MARGIN)
    image = Image.new("RGB", size, plate.ground)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((4, 4, size[0] - 5, size[1] - 5), radius=12, outline=plate.ink, width=3)
    draw.text(
        (_MARGIN - left, _MARGIN - top), plate.text, font=font, fill=plate.ink, stroke_width=1, stroke_fill=plate.ink
    )
    image = image.rotate(chance.uniform(-1.5, 1.5), Image.Resampling.BICUBIC, fillcolor=plate.ground)
    image = image.filter(ImageFilter.GaussianBlur(chance.uniform(0.2, 0.8)))
    inner = image.crop((10, 10, size[0] - 10, size[1] - 10))
    width = -(-inner.width * SIGN_HEIGHT // inner.height // _WIDTH_STEP) * _WIDTH_STEP
    small = np.asarray(inner.resize((width, SIGN_HEIGHT), Image.Resampling.BILINEAR), np.float32)
    noise = np.random.default_rng(chance.getrandbits(32)).normal(0, 6, small.shape)
    return Sign(text=plate.text, pixels=np.clip(small + noise, 0, 255).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class Page:
    """pixels: uint8 RGB [224, 224, 3], turned clockwise by `degrees`."""

    degrees: int
    pixels: np.ndarray


_LINES = (
    "Roads are closed on Sunday", "between six and nine in the", "morning. Please follow the", "signs to the harbour road",
    "and leave the bus lane free.", "Deliveries enter by gate 4.", "The car park at Main Street", "stays open all day long.",
)  # fmt: skip


def pages() -> list[Page]:
    """A notice, upright and turned: one for each side that the page turner knows."""
    font = _font(15)
    image = Image.new("RGB", (224, 224), WHITE)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(_LINES):
        draw.text((8, 12 + 26 * number), line, font=font, fill=BLACK)
    return [Page(degrees=turn, pixels=np.asarray(image.rotate(-turn))) for turn in (0, 90, 180, 270)]
