from __future__ import annotations

import io
import math
import struct
import tracemalloc
import zlib

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from edgeward_runtime.call import Call
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.model import Model
from edgeward_runtime.preprocess import chain, record, records, steps
from edgeward_runtime.preprocess.spec import Denoise, Fuse, Fused, Normalise, Resize, SpecError, parse
from edgeward_runtime.tensors import TensorSpec

PICTURES = {"x": TensorSpec("x", "FP32", (-1, 3, -1, -1))}
HIGH_LAST = {"x": TensorSpec("x", "FP32", (-1, -1, -1, 3))}
ROWS = {"x": TensorSpec("x", "FP32", (-1, 2))}


def image_spec(*todo: dict, layout: str = "NCHW", **record: object) -> bytes:
    return orjson.dumps(
        {"record": {"kind": "Image", **record}, "steps": todo, "output": {"input": "x", "layout": layout}}
    )


def table_spec(*todo: dict, channels: tuple[str, ...] = ("a", "b"), layout: str = "Rows", **record: object) -> bytes:
    return orjson.dumps(
        {
            "record": {"kind": "Table", "channels": channels, **record},
            "steps": todo,
            "output": {"input": "x", "layout": layout},
        }
    )


def picture(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def fed(text: bytes, body: bytes, inputs: dict[str, TensorSpec] = ROWS) -> np.ndarray:
    return chain.load(text, inputs).prepare(body, source="s", now=0.0).feeds["x"]


# -- records ----------------------------------------------------------------------------------------------------------


def test_a_picture_becomes_channels_first_in_the_values_it_had():
    pixels = np.arange(24).reshape(2, 4, 3)
    got = fed(image_spec(), picture(pixels), PICTURES)
    assert got.shape == (1, 3, 2, 4) and got.dtype == np.float32
    np.testing.assert_array_equal(got[0].transpose(1, 2, 0), pixels)


def test_a_phone_held_sideways_gives_an_upright_picture():
    pixels = np.zeros((8, 16, 3))
    pixels[:, :8] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: what is on the left belongs on top
    got = fed(
        image_spec(layout="NHWC"),
        picture(pixels, "JPEG", exif=exif, quality=95),
        {"x": TensorSpec("x", "FP32", (1, -1, -1, 3))},
    )
    assert got.shape == (1, 16, 8, 3)
    assert got[0, :7].mean() > 250 and got[0, 9:].mean() < 5


@pytest.mark.parametrize(("fit", "left", "middle"), [("Stretch", 255, 255), ("Crop", 255, 255), ("Pad", 255, 255)])
def test_resize_gives_the_size_asked_for(fit: str, left: int, middle: int):
    pixels = np.full((40, 80, 3), 255)
    got = fed(image_spec({"step": "Resize", "width": 20, "height": 20, "fit": fit}), picture(pixels), PICTURES)
    assert got.shape == (1, 3, 20, 20)
    assert got[0, 0, 10, 0] == left and got[0, 0, 10, 10] == middle
    assert got[0, 0, 0, 0] == (0 if fit == "Pad" else 255)


def test_a_jpeg_decoded_at_a_fraction_of_its_size_looks_as_one_decoded_whole():
    random = np.random.default_rng(5)
    smooth = np.asarray(Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).resize((640, 480)))
    body = picture(smooth, "JPEG", quality=95)
    step = {"step": "Resize", "width": 64, "height": 48}
    whole = np.asarray(Image.open(io.BytesIO(body)).convert("RGB").resize((64, 48), 2), np.float32)
    assert np.abs(fed(image_spec(step), body, PICTURES)[0].transpose(1, 2, 0) - whole).mean() < 2


def test_resize_may_come_after_another_step():
    pixels = np.random.default_rng(1).integers(0, 255, (32, 32, 3))
    late = image_spec({"step": "Denoise", "filter": "Median", "size": 3}, {"step": "Resize", "width": 8, "height": 8})
    assert fed(late, picture(pixels), PICTURES).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xd8\xff", picture(np.zeros((9, 9, 3)))[:40], b"GIF89a" + b"\0" * 50, b"II*\0" + b"\0" * 60],
    ids=["empty", "start-of-jpeg", "cut-png", "gif", "tiff"],
)
def test_what_is_no_picture_is_the_senders_fault(body: bytes):
    with pytest.raises(ProtocolError, match="JPEG or PNG") as caught:
        fed(image_spec(), body, PICTURES)
    assert caught.value.status == 400


def test_a_picture_larger_than_allowed_is_refused_before_it_is_decoded():
    with pytest.raises(ProtocolError, match="400 x 300 pixels, 1000 are allowed"):
        fed(image_spec(maxPixels=1000), picture(np.zeros((300, 400, 3))), PICTURES)


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(body: bytes):
    for text, inputs in ((image_spec(), PICTURES), (table_spec(), ROWS)):
        try:
            fed(text, body, inputs)
        except ProtocolError as error:
            assert error.status == 400


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@given(at=st.integers(0, 150), byte=st.sampled_from([0, 1, 2, 3, 5, 7, 10, 12, 255]), more=st.binary(max_size=3))
def test_a_picture_with_odd_exif_data_is_read_or_refused(kind: str, at: int, byte: int, more: bytes):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "maker", {0x9000: b"0230", 0x829A: (1, 3)}
    body = bytearray(picture(np.zeros((4, 4, 3)), kind, exif=exif.tobytes()))
    start = body.find(b"Exif" if kind == "JPEG" else b"eXIf")
    new = bytes([byte]) + more
    body[start + 4 + at : start + 4 + at + len(new)] = new
    if kind == "PNG":  # else its checksum is found wrong before the data are read
        length = int.from_bytes(body[start - 4 : start], "big")
        end = start + 4 + length
        body[end : end + 4] = zlib.crc32(body[start:end]).to_bytes(4, "big")
    try:
        fed(image_spec(), bytes(body), PICTURES)
    except ProtocolError as error:
        assert error.status == 400


@pytest.mark.parametrize(
    "raised", [struct.error("x"), TypeError("x"), AttributeError("x"), KeyError("x"), IndexError()]
)
def test_whatever_the_picture_library_raises_is_the_senders_fault(monkeypatch, raised: Exception):
    def broken(_picture: object) -> None:
        raise raised

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", broken)
    with pytest.raises(ProtocolError, match="not a readable JPEG or PNG") as caught:
        fed(image_spec(), picture(np.zeros((2, 2, 3))), PICTURES)
    assert caught.value.status == 400


@pytest.mark.parametrize("colour", ["Gray", "RGB"])
def test_a_gray_picture_of_16_bits_has_values_to_255_too(colour: str):
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 255, 256, 0x2000, 0x8000, 0xFFFF]], np.uint16)).save(file, "PNG")
    inputs = {"x": TensorSpec("x", "FP32", (-1, -1, -1, -1))}
    got = fed(image_spec(color=colour), file.getvalue(), inputs)
    assert got[0, 0, 0].tolist() == [0, 0, 1, 32, 128, 255]


def test_rows_come_in_the_order_of_the_channels_or_of_the_first_line():
    np.testing.assert_array_equal(fed(table_spec(), b"1,2\n3,4\n"), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(fed(table_spec(), b"b, a\r\n1,2\r\n"), [[2, 1]])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"1,2\n3\n", "row 2 of the record has 1 fields, wanted 2"),
        (b"1,x\n", "row 1 of the record: 'x' is not a number"),
        (b"a,a\n1,2\n", "names a channel twice"),
        (b"a,c\n1,2\n", "'c' is not one of the channels"),
        (b"", "has 0 rows"),
        (b"1,2\n" * 9, "has 9 rows, 1 to 8 are allowed"),
        (b"\xff\n", "not UTF-8"),
        (b"1,\n", r"lacks values of \['b'\]"),
        (b"a\n1\n", r"lacks values of \['b'\]"),
        (b"1,inf\n", r"lacks values of \['b'\]"),
        (b"1,1e39\n", r"lacks values of \['b'\]"),
    ],
)
def test_rows_that_cannot_be_read(body: bytes, says: str):
    with pytest.raises(ProtocolError, match=says) as caught:
        fed(table_spec(maxRows=8), body)
    assert caught.value.status == 400


# -- steps ------------------------------------------------------------------------------------------------------------


def test_normalise_is_per_channel():
    step = Normalise(scale=0.5, mean=(1.0, 2.0), std=(2.0, 4.0))
    np.testing.assert_allclose(steps.normalised(np.float32([[6, 12]]), step), [[1, 1]])


def test_median_removes_a_spike_and_a_gap_and_keeps_an_edge():
    values = np.float32([[1], [1], [9], [1], [np.nan], [5], [5], [5]])
    got = steps.denoised(values, Denoise(filter="Median", size=3, sigma=0))[:, 0]
    np.testing.assert_array_equal(got, [1, 1, 1, 5, 3, 5, 5, 5])


@pytest.mark.parametrize("shape", [(40, 3), (17, 23, 3)])
@pytest.mark.parametrize("gaps", [False, True])
def test_a_median_is_the_same_however_little_memory_it_takes(monkeypatch, shape: tuple[int, ...], gaps: bool):
    random = np.random.default_rng(3)
    values = random.normal(size=shape).astype(np.float32)
    if gaps:
        values[random.random(shape) < 0.6] = np.nan
    step = Denoise(filter="Median", size=5, sigma=0)
    whole = steps.denoised(values, step)
    for most in (1, 2_000, 20_000):
        monkeypatch.setattr(steps, "_MEDIAN_BYTES", most)
        np.testing.assert_array_equal(steps.denoised(values, step), whole)


def test_denoising_a_large_picture_takes_little_more_than_the_picture():
    values = np.random.default_rng(4).random((700, 500, 1), np.float32)
    for step in (Denoise(filter="Median", size=9, sigma=0), Denoise(filter="LowPass", size=0, sigma=20.0)):
        tracemalloc.start()
        steps.denoised(values, step)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 * values.nbytes + 2 * steps._MEDIAN_BYTES, "its windows would be 80 or 240 times as large"


def test_low_pass_takes_the_fast_part_and_leaves_the_slow_one():
    time = np.arange(400)
    slow, fast = np.sin(2 * np.pi * time / 200), np.sin(2 * np.pi * time / 4)
    got = steps.denoised((slow + fast)[:, None].astype(np.float32), Denoise(filter="LowPass", size=0, sigma=4))[:, 0]
    assert np.abs(got - slow)[20:-20].max() < 0.02


noise = st.sampled_from([Denoise(filter="Median", size=5, sigma=0), Denoise(filter="LowPass", size=0, sigma=1.5)])
values_of = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.floats(-100, 100, width=32)
)


@given(values_of, noise)
def test_denoising_stays_within_the_values_and_leaves_a_constant_alone(values: np.ndarray, step: Denoise):
    got = steps.denoised(values, step)
    assert got.shape == values.shape and got.dtype == np.float32
    slack = 1e-3
    assert (got >= values.min(axis=0) - slack).all() and (got <= values.max(axis=0) + slack).all()
    flat = np.full_like(values, 7)
    np.testing.assert_allclose(steps.denoised(flat, step), flat, rtol=1e-6)


@given(values_of, noise, st.data())
def test_a_gap_is_filled_from_what_is_known_around_it(values: np.ndarray, step: Denoise, data: st.DataObject):
    holes = data.draw(arrays.arrays(np.bool_, values.shape))
    got = steps.denoised(np.where(holes, np.nan, values).astype(np.float32), step)
    assert not np.isnan(got[~holes]).any()  # what was known stays known


def test_fusion_is_the_weighted_mean_and_does_without_what_is_missing():
    step = Fuse(into=(Fused(name="t", sources=(0, 1), weights=(0.7, 0.3)),), kept=(2,))
    got, missing = steps.fused(np.float32([[10, 20, 1], [np.nan, 20, 2], [np.nan, np.nan, 3]]), step)
    np.testing.assert_allclose(got, [[13, 1], [20, 2], [np.nan, 3]], rtol=1e-6)
    assert missing == {0, 1}


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=5), st.floats(-50, 50, width=32), st.data())
def test_sources_that_agree_fuse_to_what_they_say_whichever_are_missing(weights, value, data):
    count = len(weights)
    present = data.draw(st.lists(st.booleans(), min_size=count, max_size=count).filter(any))
    row = np.float32([[value if here else math.nan for here in present]])
    step = Fuse(into=(Fused(name="t", sources=tuple(range(count)), weights=tuple(weights)),), kept=())
    got, missing = steps.fused(row, step)
    assert got[0, 0] == pytest.approx(value, abs=1e-3)
    assert missing == {index for index, here in enumerate(present) if not here}


def test_a_table_is_resized_in_time_and_gaps_are_bridged():
    values = np.float32([[0, np.nan], [np.nan, np.nan], [4, np.nan]])
    got = steps.resampled(values, Resize(width=0, height=5, fit="Stretch"))
    np.testing.assert_array_equal(got[:, 0], [0, 1, 2, 3, 4])
    assert np.isnan(got[:, 1]).all()


# -- the chain --------------------------------------------------------------------------------------------------------


def test_a_missing_channel_is_fused_away_and_named():
    fuse = {"step": "Fuse", "into": [{"name": "t", "channels": ["t1", "t2"], "weights": [3, 1]}]}
    loaded = chain.load(table_spec(fuse, channels=("t1", "v", "t2")), ROWS)
    prepared = loaded.prepare(b"8,5,\n", source="s", now=0.0)
    np.testing.assert_array_equal(prepared.feeds["x"], [[8, 5]])
    assert prepared.missing == ("t2",)


def test_layouts_of_a_table():
    body = b"1,2\n3,4\n"
    sequence, flat = {"x": TensorSpec("x", "FP32", (-1, -1, 2))}, {"x": TensorSpec("x", "FP32", (-1, 4))}
    assert fed(table_spec(layout="Sequence"), body, sequence).shape == (1, 2, 2)
    np.testing.assert_array_equal(fed(table_spec(layout="Flat"), body, flat), [[1, 2, 3, 4]])


def test_integers_are_rounded_and_kept_within_their_type():
    inputs = {"x": TensorSpec("x", "UINT8", (-1, 2))}
    np.testing.assert_array_equal(fed(table_spec(), b"-3,1.6\n300,2.5\n", inputs), [[0, 2], [255, 2]])


def test_what_a_whole_number_cannot_hold_is_its_largest():
    for name, most in (("INT32", 2**31 - 1), ("INT64", 2**63 - 1)):
        got = fed(table_spec(channels=("a",)), b"3e38\n-3e38\n", {"x": TensorSpec("x", name, (-1, 1))})
        assert 0.999 * most < got[0, 0] <= most and got[1, 0] == -most - 1


@pytest.mark.parametrize(
    ("step", "body", "datatype"),
    [
        ({"step": "Denoise", "filter": "Median", "size": 3}, b"3.3e38\n3.3e38\nnan\n", "FP32"),
        ({"step": "Normalise", "scale": 1000}, b"3e38\n", "FP32"),
        ({"step": "Normalise", "scale": 1000}, b"3e38\n", "UINT8"),
        ({"step": "Normalise"}, b"100000\n", "FP16"),
    ],
    ids=["median", "normalise", "to-integers", "to-half"],
)
def test_values_that_are_too_large_are_refused_not_run_as_infinite(step: dict, body: bytes, datatype: str):
    inputs = {"x": TensorSpec("x", datatype, (-1, 1))}
    with pytest.raises(ProtocolError, match="too large") as caught:
        fed(table_spec(step, channels=("a",)), body, inputs)
    assert caught.value.status == 400


def near(max_age: float = 60.0) -> chain.Chain:
    return chain.load(table_spec({"step": "DropNearDuplicates", "distance": 0.5, "maxAge": max_age}), ROWS)


def run(loaded: chain.Chain, body: bytes, *, now: float, id: str, source: str = "cam") -> chain.Prepared:
    prepared = loaded.prepare(body, source=source, now=now)
    if prepared.again is None:
        loaded.answered(source, prepared, now=now, id=id, tensors={"y": np.float32([now])})
    return prepared


def test_a_near_duplicate_gets_the_answer_of_the_one_before():
    loaded = near()
    assert run(loaded, b"1,1", now=0, id="first").again is None
    again = run(loaded, b"1,1.9", now=1, id="second").again
    assert again is not None and again.id == "first" and again.tensors["y"] == 0
    assert run(loaded, b"1,2.2", now=2, id="third").again is None


def test_a_near_duplicate_says_who_made_the_answer_it_repeats():
    model = Model(name="m", version="1", digest="d", session=None, inputs=ROWS, outputs={})
    model.chain = chain.load(table_spec({"step": "DropNearDuplicates", "distance": 1}), ROWS)

    def prepared(id: str) -> Call:
        call = Call(model)
        call.feeds, call.names, call.id = {"record": np.frombuffer(b"1,2\n", np.uint8)}, ["y"], id
        record.prepare(call)
        return call

    first = prepared("a")
    first.tensors, first.answered_by = [np.ones((1, 1), np.float32)], "big/7"
    first.notes = {"offloaded_to": "big/7", "missing_channels": "a"}
    record.finished(first)
    again = prepared("b")
    assert again.answered_by == "big/7"
    assert again.notes == {"offloaded_to": "big/7", "missing_channels": "a", "near_duplicate_of": "a"}


@pytest.mark.parametrize(("raised", "status"), [(MemoryError(), 413), (RuntimeError("x"), 500)])
def test_a_record_that_cannot_be_prepared_has_an_answer(raised: Exception, status: int):
    model = Model(name="m", version="1", digest="d", session=None, inputs=ROWS, outputs={})
    model.chain = chain.load(table_spec(), ROWS)

    def broken(*_args: object, **_more: object) -> None:
        raise raised

    model.chain.prepare = broken
    call = Call(model)
    call.feeds = {"record": np.frombuffer(b"1,2\n", np.uint8)}
    assert not record.prepare(call)
    assert call.error is not None and call.error.status == status


def test_a_slow_drift_is_not_taken_for_standing_still():
    """Compared with the last one that was run, not with the last one that came."""
    loaded = near()
    seen = [run(loaded, f"0,{step * 0.4:.1f}".encode(), now=step, id=str(step)).again is not None for step in range(7)]
    assert seen == [False, True, True, False, True, True, False]


def test_sources_are_apart_and_old_answers_are_not_repeated():
    loaded = near(max_age=10)
    run(loaded, b"1,1", now=0, id="a")
    assert run(loaded, b"1,1", now=1, id="b", source="other").again is None
    assert run(loaded, b"1,1", now=11, id="c").again is None
    assert run(loaded, b"1,1", now=3, id="d").again is None  # a clock set back trusts nothing


def test_the_sources_remembered_are_bounded():
    loaded = near()
    for number in range(300):
        run(loaded, b"1,1", now=0, id="x", source=str(number))
    assert run(loaded, b"1,1", now=0, id="x", source="0").again is None
    assert run(loaded, b"1,1", now=0, id="x", source="299").again is not None


def test_noise_of_single_pixels_makes_no_new_picture():
    random = np.random.default_rng(2)
    base = random.integers(50, 200, (320, 320, 3))
    loaded = chain.load(image_spec({"step": "DropNearDuplicates", "distance": 2}), PICTURES)
    run(loaded, picture(base), now=0, id="a")
    assert run(loaded, picture(base + random.integers(-9, 10, base.shape)), now=1, id="b").again is not None
    assert run(loaded, picture(np.roll(base, 160, axis=1) // 2), now=2, id="c").again is None


# -- what is refused at load ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[", "not JSON"),
        (b"[]", "preprocessing must be an object"),
        (b"{}", r"preprocessing\.record is missing"),
        (image_spec({"step": "Blur"}), r"steps\[0\]\.step: 'Blur' is not one of"),
        (image_spec({"step": "Resize", "width": 4}), r"steps\[0\]\.height is missing"),
        (image_spec({"step": "Resize", "width": True, "height": 4}), "True is not an integer"),
        (image_spec({"step": "Normalise", "mean": [1, 2]}), "2 numbers for 3 channels"),
        (image_spec({"step": "Normalise", "std": 0}), "0 cannot be divided by"),
        (image_spec({"step": "Normalise", "sigma": 0}), r"unknown keys \['sigma'\]"),
        (image_spec({"step": "Denoise", "filter": "Median", "size": 4}), "4 is even"),
        (image_spec(color="CMYK"), r"record\.color: 'CMYK' is not one of RGB, Gray"),
        (image_spec(layout="Rows"), r"output\.layout: 'Rows' is not one of NCHW, NHWC"),
        (image_spec({"step": "Resize", "width": 8, "height": 8}, layout="NHWC"), "the chain makes"),
        (table_spec(channels=("a", "a")), "different names"),
        (table_spec(channels=("a", "b", "c")), r"the chain makes \[-1, 3\], input 'x' takes \[-1, 2\]"),
        (table_spec({"step": "Fuse", "into": [{"name": "t", "channels": ["q"]}]}), r"\['q'\] are not among"),
        (
            table_spec({"step": "Fuse", "into": [{"name": "t", "channels": ["a"]}, {"name": "u", "channels": ["a"]}]}),
            "fused already",
        ),
        (table_spec({"step": "Fuse", "into": [{"name": "b", "channels": ["a"]}]}), "a name twice"),
        (table_spec({"step": "Fuse", "into": [{"name": "t", "channels": ["a"], "weights": [0]}]}), "above 0"),
        (table_spec(*[{"step": "DropNearDuplicates", "distance": 1}] * 2), "may stand there once"),
        (table_spec({"step": "DropNearDuplicates", "distance": -1}), "not a number that fits"),
        (table_spec().replace(b'"input":"x"', b'"input":"z"'), r"the model takes \['x'\]"),
    ],
)
def test_what_is_not_understood_is_refused_at_load(text: bytes, says: str):
    with pytest.raises(SpecError, match=says):
        chain.load(text, PICTURES if b"Image" in text else ROWS)


def test_the_examples_of_the_docstring_are_understood():
    from edgeward_runtime.preprocess import spec

    for block in (spec.__doc__ or "").split("\n\n")[1:]:
        assert parse(block.encode()).steps


def test_records_are_named_by_an_input_no_model_may_have():
    with pytest.raises(SpecError, match="cannot have an input named 'record'"):
        chain.load(
            table_spec().replace(b'"input":"x"', b'"input":"record"'), {"record": TensorSpec("record", "FP32", (-1, 2))}
        )
    assert records.image and chain.RECORD.datatype == "UINT8"
