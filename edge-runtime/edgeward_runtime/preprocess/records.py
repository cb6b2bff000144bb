"""Bytes as a camera or a sensor sends them, to numbers: height x width x channels, or rows x channels.

Whatever cannot be read is the sender's fault and answered with 400; nothing here trusts a size that a header claims.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeward_runtime.errors import ProtocolError, bad_request
from edgeward_runtime.preprocess.spec import Record, Resize

if TYPE_CHECKING:
    from PIL.Image import Image

Values = npt.NDArray[np.float32]

# Formats that cameras send. Every further one that the library knows is further code before strangers' bytes.
_FORMATS = ("JPEG", "PNG")
_RESAMPLED = 2  # Resampling.BILINEAR, what training pipelines use


def image(body: bytes, record: Record, resize: Resize | None) -> Values:
    """The picture, upright as its EXIF data say, values 0..255. A first Resize is done here: a JPEG is then decoded at
    a half, a quarter or an eighth of its size where that is still larger than what is wanted."""
    import PIL.Image
    from PIL import ImageOps

    try:
        with PIL.Image.open(io.BytesIO(body), formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > record.max_pixels:
                raise bad_request(f"the image has {width} x {height} pixels, {record.max_pixels} are allowed")
            mode = "RGB" if len(record.channels) == 3 else "L"
            if resize is not None:
                picture.draft(mode, (resize.width, resize.height))
            upright = _eight_bits(ImageOps.exif_transpose(picture)).convert(mode)
            if resize is not None:
                upright = _fitted(upright, resize)
            pixels = np.asarray(upright, np.float32)
    except (ProtocolError, MemoryError):
        raise
    except Exception as error:
        # Not a list of its types: what the library makes of strangers' bytes (struct.error, TypeError, AttributeError of
        # odd EXIF data) is not documented.
        raise bad_request(f"the record is not a readable JPEG or PNG image: {str(error)[:200]}") from None
    return pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]


def _eight_bits(picture: Image) -> Image:
    """A gray picture of 16 bits by its upper eight, as the library has it for coloured ones; its own conversion would
    make everything above 255 white."""
    import PIL.Image

    if not picture.mode.startswith("I"):
        return picture
    return PIL.Image.fromarray((np.clip(np.asarray(picture), 0, 0xFFFF) >> 8).astype(np.uint8))


def refitted(values: Values, resize: Resize) -> Values:
    """The same for an image in the middle of a chain."""
    import PIL.Image

    channels = [_fitted(PIL.Image.fromarray(values[:, :, index]), resize) for index in range(values.shape[2])]
    return np.stack([np.asarray(one, np.float32) for one in channels], axis=-1)


def _fitted(picture: Image, resize: Resize) -> Image:
    from PIL import ImageOps

    size = (resize.width, resize.height)
    if resize.fit == "Crop":
        return ImageOps.fit(picture, size, _RESAMPLED)
    if resize.fit == "Pad":
        return ImageOps.pad(picture, size, _RESAMPLED)
    return picture.resize(size, _RESAMPLED)


def table(body: bytes, record: Record) -> Values:
    """CSV: one row a line, commas between, a first line of channel names may give their order. An empty field, `nan` or
    a channel that the first line lacks is a missing value, nan."""
    try:
        lines = body.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise bad_request("the record is not UTF-8 text") from None
    rows = [[field.strip() for field in line.split(",")] for line in lines if line.strip()]
    order = list(range(len(record.channels)))
    if rows and any(field in record.channels for field in rows[0]):
        order = [_position(name, record) for name in rows.pop(0)]
        if len(set(order)) < len(order):
            raise bad_request("the record's first line names a channel twice")
    if not 1 <= len(rows) <= record.max_rows:
        raise bad_request(f"the record has {len(rows)} rows, 1 to {record.max_rows} are allowed")
    values = np.full((len(rows), len(record.channels)), np.nan, np.float32)
    for number, row in enumerate(rows):
        if len(row) != len(order):
            raise bad_request(f"row {number + 1} of the record has {len(row)} fields, wanted {len(order)}")
        for position, field in zip(order, row, strict=True):
            if field:
                values[number, position] = _float(field, number)
    return values


def _position(name: str, record: Record) -> int:
    try:
        return record.channels.index(name)
    except ValueError:
        raise bad_request(f"{name!r:.100} is not one of the channels {list(record.channels)}") from None


def _float(field: str, number: int) -> float:
    try:
        value = float(field)
    except ValueError:
        raise bad_request(f"row {number + 1} of the record: {field!r:.50} is not a number") from None
    # A sensor that reports infinity has no reading; and what float32 cannot hold would become it.
    return value if math.isfinite(value) and abs(value) < 3.4e38 else math.nan
