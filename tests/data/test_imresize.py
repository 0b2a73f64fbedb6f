import importlib.util
import json
from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data.imresize
from data.imresize import contributions, imresize

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def keys_cubic(x):
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x < 2:
        return Fraction(-1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


def resize_line(line, scale, border, antialias):
    """One line of the definition in exact fractions; pixel centres lie at 1/2, 3/2, ..."""
    n = len(line)
    stretch = min(scale, 1) if antialias else 1
    out = []
    for k in range(ceil(scale * n)):
        centre = (k + Fraction(1, 2)) / scale - Fraction(1, 2)
        reach = ceil(2 / stretch) + 1
        total = weight_sum = Fraction(0)
        for i in range(floor(centre) - reach, floor(centre) + reach + 1):
            weight = keys_cubic(stretch * (centre - i))
            inside = min(max(i, 0), n - 1) if border == "replicate" else min(i % (2 * n), 2 * n - 1 - i % (2 * n))
            total += weight * int(line[inside])
            weight_sum += weight
        out.append(total / weight_sum)
    return out


def by_definition(image, scale, border="symmetric", antialias=True):
    """uint8 [h, w] resized in exact arithmetic, rounded half up and clipped after each pass; rows first."""
    for _ in range(2):
        lines = [resize_line(column, scale, border, antialias) for column in image.T]
        image = np.array([[min(max(floor(v + Fraction(1, 2)), 0), 255) for v in line] for line in lines], np.uint8)
    return image


def check_against_matlab(shared, name_of_set, scale, expected_count):
    folder = shared / "data"
    paths = sorted((folder / "matlab_lr" / name_of_set / f"X{scale}").glob("*.png"))
    assert len(paths) == expected_count
    for path in paths:
        name = path.stem.removesuffix(f"x{scale}")
        hr = np.asarray(Image.open(folder / "benchmark" / name_of_set / "HR" / f"{name}.png"))
        height, width = (length // scale * scale for length in hr.shape[:2])
        lr = imresize(hr[:height, :width], 1 / scale, border="replicate")
        assert np.array_equal(lr, np.asarray(Image.open(path))), path


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("name_of_set", "count"), [("Set5", 5), ("Set14", 14)])
def test_equals_matlab_in_every_pixel(shared, name_of_set, count, scale):
    check_against_matlab(shared, name_of_set, scale, count)


# Ties of these scales are exact in float64 or do not occur, so the definition leaves no choice.
@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 8), 2, 3, 4, 1])
@pytest.mark.parametrize("border", ["symmetric", "replicate"])
@pytest.mark.parametrize("antialias", [True, False])
def test_equals_the_definition_in_exact_fractions(rng, scale, border, antialias):
    image = rng.integers(0, 256, (10, 9) if scale > 1 else (21, 17), dtype=np.uint8)
    expected = by_definition(image, Fraction(scale), border, antialias)
    assert np.array_equal(imresize(image, float(scale), border=border, antialias=antialias), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
def test_images_smaller_than_the_kernel(rng, shape):
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    for border in ("symmetric", "replicate"):
        assert np.array_equal(imresize(image, 0.25, border=border), by_definition(image, Fraction(1, 4), border))


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.125, 2.0, (0.5, 2.0), (4.0, 0.25)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_matrix_product_equals_sums_in_order(monkeypatch, rng, scale, dtype):
    image = rng.integers(0, np.iinfo(dtype).max, (53, 70, 3), dtype=dtype, endpoint=True)
    fast = imresize(image, scale)
    monkeypatch.setattr(data.imresize, "_sum_by_matmul", None)
    monkeypatch.setattr(data.imresize, "_exact_type", lambda *_: None)
    assert np.array_equal(fast, imresize(image, scale))


@pytest.mark.parametrize(("scale", "expected"), [(0.25, np.float32), (0.125, np.float64), (1 / 3, None), (0.7, None)])
def test_matrix_product_only_where_sums_are_exact(scale, expected):
    weights, _ = contributions(480, ceil(480 * scale), scale)
    assert data.imresize._exact_type(np.dtype(np.uint8), weights) is expected
    assert data.imresize._exact_type(np.dtype(np.float32), weights) is None


def load_golden():
    spec = importlib.util.spec_from_file_location("make_imresize", GOLDEN / "make_imresize.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = json.loads((GOLDEN / "imresize.json").read_text())
    assert [case["arguments"] for case in cases] == module.CASES
    return [(module.picture(), case["arguments"], case["pixels"]) for case in cases]


@pytest.mark.parametrize(("image", "arguments", "pixels"), load_golden())
def test_golden_numbers(image, arguments, pixels):
    assert imresize(image, **arguments).tolist() == pixels


def test_channels_are_independent(rng):
    image = rng.integers(0, 256, (30, 41, 4), dtype=np.uint8)
    for scale in (0.25, 0.3, 1.5):
        whole = imresize(image, scale)
        assert all(np.array_equal(whole[..., c], imresize(image[..., c], scale)) for c in range(4))


def test_the_smaller_scale_goes_first(rng):
    image = rng.integers(0, 256, (40, 40), dtype=np.uint8)
    assert np.array_equal(imresize(image, (0.5, 0.25)), imresize(imresize(image, (1, 0.25)), (0.5, 1)))
    assert np.array_equal(imresize(image, (0.25, 0.5)), imresize(imresize(image, (0.25, 1)), (1, 0.5)))
    assert np.array_equal(imresize(image, 0.5), imresize(imresize(image, (0.5, 1)), (1, 0.5)))
    assert not np.array_equal(imresize(image, 0.5), imresize(imresize(image, (1, 0.5)), (0.5, 1)))


def test_halves_are_rounded_up():
    image = np.array([[1, 0, 0, 1], [0, 1, 1, 0]] * 2, np.uint8)
    assert imresize(image, 0.5).tolist() == by_definition(image, Fraction(1, 2)).tolist()
    assert imresize(np.array([[1, 2], [1, 2]], np.uint8), output_shape=(2, 1)).tolist() == [[2], [2]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_images_are_neither_rounded_nor_clipped(dtype):
    edge = np.repeat(np.array([0.0, 1.0], dtype), 8)[None].repeat(8, axis=0)
    out = imresize(edge, 2)
    assert out.dtype == dtype and out.min() < 0 and out.max() > 1
    # A constant is kept but for a last bit of each of 16 weights that sum to one; processors add in their own ways.
    np.testing.assert_allclose(imresize(np.full((9, 9), 0.3, dtype), 0.3), 0.3, rtol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"scale": 0.3}, (4, 7)),
        ({"scale": (2, 0.5)}, (26, 11)),
        ({"scale": 1.1}, (15, 24)),
        ({"output_shape": (5, 30)}, (5, 30)),
        ({"output_shape": (4.2, 9)}, (5, 9)),
        ({"output_shape": (6, None)}, (6, 10)),
        ({"output_shape": (None, 5)}, (4, 5)),
        ({"scale": 0.5, "output_shape": (3, 4)}, (3, 4)),
    ],
)
def test_output_sizes(arguments, shape):
    assert imresize(np.zeros((13, 21), np.uint8), **arguments).shape == shape
    assert imresize(np.zeros((13, 21, 3), np.float32), **arguments).shape == (*shape, 3)


def test_output_shape_sets_the_scale_of_each_axis(rng):
    image = rng.integers(0, 256, (13, 21), dtype=np.uint8)
    assert np.array_equal(imresize(image, output_shape=(5, 30)), imresize(image, (5 / 13, 30 / 21)))
    one_given = imresize(image, output_shape=(6, None))
    assert np.array_equal(one_given, imresize(image, 6 / 13, output_shape=(6, 10)))


def test_input_may_be_a_view(rng):
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    view = image[::-1, 5:50].transpose(1, 0, 2)
    before = view.copy()
    assert np.array_equal(imresize(view, 0.25), imresize(before, 0.25))
    assert np.array_equal(view, before)


def test_weights_sum_to_one_and_empty_taps_are_dropped():
    weights, indices = contributions(40, 10, 0.25)
    assert weights.shape == (10, 16) and indices.min() == 0 and indices.max() == 39
    assert np.array_equal(weights.sum(axis=1), np.ones(10))
    assert indices[0, :8].tolist() == [5, 4, 3, 2, 1, 0, 0, 1]
    assert contributions(40, 10, 0.25, border="replicate")[1][0, :8].tolist() == [0] * 7 + [1]


@pytest.mark.parametrize(
    ("image", "arguments", "error"),
    [
        (np.zeros((4, 4), np.int32), {"scale": 2}, TypeError),
        (np.zeros((4,), np.uint8), {"scale": 2}, ValueError),
        (np.zeros((0, 4), np.uint8), {"scale": 2}, ValueError),
        (np.zeros((4, 4), np.uint8), {}, ValueError),
        (np.zeros((4, 4), np.uint8), {"scale": 0}, ValueError),
        (np.zeros((4, 4), np.uint8), {"scale": float("nan")}, ValueError),
        (np.zeros((4, 4), np.uint8), {"scale": (1, 2, 3)}, ValueError),
        (np.zeros((4, 4), np.uint8), {"output_shape": (4,)}, ValueError),
        (np.zeros((4, 4), np.uint8), {"output_shape": (None, None)}, ValueError),
        (np.zeros((4, 4), np.uint8), {"output_shape": (4, -1)}, ValueError),
        (np.zeros((4, 4), np.uint8), {"scale": 2, "border": "circular"}, ValueError),
    ],
)
def test_bad_arguments_are_named(image, arguments, error):
    with pytest.raises(error):
        imresize(image, **arguments)
