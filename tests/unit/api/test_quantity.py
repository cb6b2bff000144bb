"""Notations are read exactly, and the schema's pattern and the reader agree on what they accept."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.api import quantity as q


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)),
        ("2", Fraction(2)),
        (2, Fraction(2)),
        ("0", Fraction(0)),
        ("1.5", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("1.", Fraction(1)),
        ("256Mi", Fraction(256 * 1024**2)),
        ("0.5Gi", Fraction(512 * 1024**2)),
        ("1k", Fraction(1000)),
        ("1Ki", Fraction(1024)),
        ("1M", Fraction(10**6)),
        ("1E", Fraction(10**18)),
        ("1e3", Fraction(1000)),
        ("1E3", Fraction(1000)),
        ("1E-3", Fraction(1, 1000)),
        ("100n", Fraction(1, 10**7)),
        ("3u", Fraction(3, 10**6)),
        ("-5", Fraction(-5)),
        ("+1Ki", Fraction(1024)),
    ],
)
def test_quantity(text: str | int, value: Fraction) -> None:
    assert q.parse_quantity(text) == value


@pytest.mark.parametrize(
    "text", ["", " ", "1 Gi", "1gi", "1KI", "1K", "Mi", "1e", "1e999999999", "0x10", "٣", "1_000", "1Mi\n", "NaN", True]
)
def test_quantity_refuses(text: str) -> None:
    with pytest.raises(q.QuantityError, match="500m, 2 or 256Mi"):
        q.parse_quantity(text)


def test_small_parts_are_rounded_up_as_kubernetes_does() -> None:
    assert q.parse_cpu("1u") == 1
    assert q.parse_cpu("100n") == 1
    assert q.parse_cpu("1.0001") == 1001
    assert q.parse_bytes("256m") == 1
    assert q.parse_bytes("1.5") == 2
    assert q.parse_cpu("0") == 0
    assert q.parse_cpu("-500m") == -500


@given(st.integers(0, 10**9))
def test_cpu_round_trip(milli: int) -> None:
    assert q.parse_cpu(q.format_cpu(milli)) == milli


@given(st.integers(0, 2**63))
def test_bytes_round_trip(count: int) -> None:
    assert q.parse_bytes(q.format_bytes(count)) == count


@given(st.integers(1, 2**20), st.sampled_from(["Ki", "Mi", "Gi", "Ti"]))
def test_bytes_are_written_in_binary_units(count: int, unit: str) -> None:
    text = q.format_bytes(count * int(q.parse_quantity(f"1{unit}")))
    assert text.endswith("i")
    assert len(text) <= len(f"{count}{unit}")


@given(st.decimals(0, 10**6, places=3), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "e3", "E-2"]))
def test_quantity_is_number_times_unit(number: object, unit: str) -> None:
    assert q.parse_quantity(f"{number}{unit}") == Fraction(str(number)) * q.parse_quantity(f"1{unit}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1h30m", Fraction(5400)),
        ("80ms", Fraction(80, 1000)),
        ("5m", Fraction(300)),
        ("0s", Fraction(0)),
        ("1m1ms", Fraction(60_001, 1000)),
        ("1h1m1s1ms", Fraction(3_661_001, 1000)),
        ("72h", Fraction(259_200)),
        ("1500ms", Fraction(3, 2)),
    ],
)
def test_duration(text: str, value: Fraction) -> None:
    assert q.parse_duration(text) == value
    assert q.seconds(text) == float(value)


@pytest.mark.parametrize("text", ["", "5", "1.5s", "5M", "1d", "1s1m", "-5s", "5 s", "1h1h", "1us", "٣s", "5s\n"])
def test_duration_refuses(text: str) -> None:
    with pytest.raises(q.QuantityError, match="1h30m or 80ms"):
        q.parse_duration(text)


@given(st.integers(0, 10**11))
def test_duration_round_trip(millis: int) -> None:
    assert q.parse_duration(q.format_duration(Fraction(millis, 1000))) == Fraction(millis, 1000)


def test_duration_is_not_negative() -> None:
    with pytest.raises(q.QuantityError):
        q.format_duration(-1)
    assert q.format_duration(0) == "0s"
    assert q.format_duration(0.0801) == "80ms"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1M", 10**6), ("2.5G", 2_500_000_000), ("56k", 56_000), ("1000000", 10**6), (9600, 9600), ("0.001", 1), ("0", 0)],
)
def test_bandwidth(text: str | int, value: int) -> None:
    assert q.parse_bandwidth(text) == value


@pytest.mark.parametrize("text", ["", "1MB", "1Mi", "1Mbit", "-1M", "1K", "1m", "1M/s", -1, True])
def test_bandwidth_refuses(text: str | int) -> None:
    with pytest.raises(q.QuantityError, match="no B, no Mi"):
        q.parse_bandwidth(text)


def test_percent_and_decimal() -> None:
    assert q.parse_percent("10%") == Fraction(1, 10)
    assert q.parse_percent("100%") == 1
    assert q.parse_decimal("1.05") == Fraction(21, 20)
    assert q.parse_decimal(3) == 3
    for text in ("101%", "10", "-1%", "1.5%"):
        with pytest.raises(q.QuantityError):
            q.parse_percent(text)
    for decimal in ("", "-1", "1e3", "1.1234567", "nan", -1, True):
        with pytest.raises(q.QuantityError):
            q.parse_decimal(decimal)
    for value in (float("nan"), float("inf"), -1.0, 1e12):
        with pytest.raises(q.QuantityError):
            q.format_decimal(value)


@given(st.integers(0, 10**9))
def test_decimal_round_trip(micro: int) -> None:
    assert q.parse_decimal(q.format_decimal(Fraction(micro, 10**6))) == Fraction(micro, 10**6)


READERS = {
    q.DURATION_PATTERN: q.parse_duration,
    q.BANDWIDTH_PATTERN: q.parse_bandwidth,
    q.PERCENT_PATTERN: q.parse_percent,
    q.DECIMAL_PATTERN: q.parse_decimal,
}
NEAR_MISSES = st.text(alphabet="0123456789.hms%kKMGTi-+e ", max_size=10)


def accepts(reader: object, text: str) -> bool:
    try:
        reader(text)  # type: ignore[operator]
    except q.QuantityError:
        return False
    return True


@pytest.mark.parametrize("pattern", READERS)
def test_reader_and_schema_accept_the_same(pattern: str) -> None:
    """A text that the apiserver lets through must never surprise the operator, and the other way round."""
    reader = READERS[pattern]

    @given(NEAR_MISSES | st.from_regex(pattern, fullmatch=True, alphabet=st.characters(max_codepoint=127)))
    def check(text: str) -> None:
        text = text.rstrip("\n")
        # The schema adds minLength 2 to a duration, since each of its parts may be absent.
        matches = bool(re.fullmatch(pattern, text)) and text != ""
        assert accepts(reader, text) == matches

    check()


@given(st.from_regex(q.QUANTITY_PATTERN, fullmatch=True))
def test_every_quantity_of_the_schema_is_read(text: str) -> None:
    assert q.parse_quantity(text.rstrip("\n")) >= 0


@given(NEAR_MISSES)
def test_reader_of_quantities_accepts_no_more_than_the_schema_but_signs(text: str) -> None:
    if accepts(q.parse_quantity, text):
        assert re.fullmatch(q.QUANTITY_PATTERN, text.lstrip("+-"))
