"""Exact readers and writers of the notations that specs use: Kubernetes quantities, durations, bit rates, percents.

Everything is exact (int or Fraction): a planner that adds up thousands of requests must get the number that the
stock scheduler gets, and a float would not. Every reader raises QuantityError (a ValueError) that quotes the text and
says what would have been accepted.
"""

import re
from fractions import Fraction

# Patterns are shared with the CRD schemas, so they keep to what RE2 (Go) and Rust's regex read alike: no look-around.
_NUMBER = r"([0-9]{1,18}(\.[0-9]{0,9})?|\.[0-9]{1,9})"
QUANTITY_PATTERN = rf"^{_NUMBER}([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{{1,2}})?$"
DURATION_PATTERN = r"^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$"
BANDWIDTH_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,3})?[kMGT]?$"
PERCENT_PATTERN = r"^(100|[0-9]{1,2})%$"
DECIMAL_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,6})?$"

_SIGNED_QUANTITY = re.compile(
    r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?"
)
_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,8})m)?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?")
_BANDWIDTH = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([kMGT]?)")
_MAX_TEXT = 64

_SCALE: dict[str, Fraction] = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000 ** (power + 1)) for power, unit in enumerate("kMGTPE")},
    **{f"{unit}i": Fraction(1024 ** (power + 1)) for power, unit in enumerate("KMGTPE")},
}
_BINARY_UNITS = ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki")


class QuantityError(ValueError):
    """A text that is not in the notation its field asks for."""


def _bad(kind: str, text: object, wanted: str) -> QuantityError:
    return QuantityError(f"{str(text)[:_MAX_TEXT]!r} is not a {kind}: {wanted}")


def parse_quantity(text: str | int) -> Fraction:
    """A Kubernetes Quantity as an exact number of its base unit (cores, bytes, pieces).

    Grammar: the apimachinery `resource.Quantity` one. Signs are read (node figures are data), specs refuse them by
    schema. Exponents keep to two digits, because `1e999999999` would otherwise eat the memory of the reader.
    """
    if isinstance(text, bool):
        raise _bad("quantity", text, "write a number with an optional unit, such as 500m, 2 or 256Mi")
    if isinstance(text, int):
        return Fraction(text)
    match = _SIGNED_QUANTITY.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        raise _bad("quantity", text, "write a number with an optional unit, such as 500m, 2 or 256Mi")
    sign, number, unit, exponent = match.groups()
    whole, _, decimals = number.partition(".")
    value = Fraction(int(whole + decimals or "0"), 10 ** len(decimals))
    value *= Fraction(10) ** int(exponent) if exponent else _SCALE[unit or ""]
    return -value if sign == "-" else value


def _ceil(value: Fraction) -> int:
    return -((-value.numerator) // value.denominator)


def parse_cpu(text: str | int) -> int:
    """CPU quantity -> millicores, rounded up as Kubernetes' MilliValue does (a request is never under-counted)."""
    return _ceil(parse_quantity(text) * 1000)


def parse_bytes(text: str | int) -> int:
    """Memory or storage quantity -> bytes, rounded up as Kubernetes' Value does."""
    return _ceil(parse_quantity(text))


def format_cpu(milli: int) -> str:
    """Millicores -> canonical quantity: 500m, 2."""
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def format_bytes(count: int) -> str:
    """Bytes -> the shortest exact binary quantity: 256Mi, 1000."""
    for unit in _BINARY_UNITS:
        size = int(_SCALE[unit])
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def parse_duration(text: str) -> Fraction:
    """`1h30m`, `45s`, `80ms` -> seconds, exact. Units h, m, s, ms, each at most once, in this order."""
    match = _DURATION.fullmatch(text) if text else None
    if match is None:
        raise _bad("duration", text, "write whole numbers with units h, m, s, ms in that order, such as 1h30m or 80ms")
    hours, minutes, seconds, millis = (int(group or 0) for group in match.groups())
    return Fraction(hours * 3600 + minutes * 60 + seconds) + Fraction(millis, 1000)


def seconds(text: str) -> float:
    """Duration text -> seconds as a float, for timers and comparisons with the clock."""
    return float(parse_duration(text))


def format_duration(value: float | Fraction) -> str:
    """Seconds (not negative) -> duration text, rounded to a whole millisecond: 90 -> 1m30s, 0 -> 0s."""
    millis = round(value * 1000)
    if millis < 0:
        raise _bad("duration", value, "it must not be negative")
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, millis = divmod(millis, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_bandwidth(text: str | int) -> int:
    """`1M`, `2.5G`, `56k`, `1000000` -> bit/s (decimal units; a fraction of a bit is rounded up).

    Always bits: binary units and a trailing B are refused, because 1MB would be eight times what the reader means.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = _BANDWIDTH.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _bad("bandwidth", text, "write bits a second with an optional k, M, G or T, such as 1M (no B, no Mi)")
    number, unit = match.groups()
    whole, _, decimals = number.partition(".")
    return _ceil(Fraction(int(whole + decimals), 10 ** len(decimals)) * _SCALE[unit])


def parse_percent(text: str) -> Fraction:
    """`10%` -> 1/10. Whole percents from 0% to 100%."""
    if not re.fullmatch(PERCENT_PATTERN.strip("^$"), text):
        raise _bad("percentage", text, "write a whole percentage from 0% to 100%, such as 10%")
    return Fraction(int(text[:-1]), 100)


def parse_decimal(text: str | int) -> Fraction:
    """`1.05` -> 21/20, exact. Decimals travel as text because the Kubernetes API forbids floats in specs."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return Fraction(text)
    if not isinstance(text, str) or not re.fullmatch(DECIMAL_PATTERN.strip("^$"), text):
        raise _bad("decimal", text, 'write a number that is not negative, in quotes, such as "1.05"')
    return Fraction(text)


def format_decimal(value: float | Fraction) -> str:
    """Number (not negative) -> decimal text with at most six decimals and no trailing zeros: 0.25 -> 0.25, 2 -> 2."""
    text = f"{float(value):.6f}".rstrip("0").rstrip(".")
    if not re.fullmatch(DECIMAL_PATTERN.strip("^$"), text):
        raise _bad("decimal", value, "it must be finite, not negative and below 1e12")
    return text
