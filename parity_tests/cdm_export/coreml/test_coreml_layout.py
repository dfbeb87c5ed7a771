"""Operations of the Core ML interpreter that move values and resize images, against NumPy and PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("coremltools")

from cdm_export.runtimes.errors import BundleError
from parity_tests.coreml_operation import close, quick, random, run, sides

# --- layout -----------------------------------------------------------------------------------------------------------


@given(st.permutations(range(4)))
@quick
def test_transpose_and_reshape(perm):
    x = random(2, 3, 4, 5)
    close(run("transpose", {"x": x, "perm": torch.tensor(perm)}), torch.from_numpy(x.numpy().transpose(perm)), 0)
    close(run("reshape", {"x": x, "shape": torch.tensor([0, -1, 5])}), x.reshape(2, 12, 5), 0)


@given(
    st.tuples(*[st.integers(0, 3)] * 2), st.tuples(*[st.integers(4, 6)] * 2), st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.booleans()] * 6),
)  # fmt: skip
@quick
def test_slices(begin, end, stride, masks):
    x = random(6, 6)
    operands = {
        "x": x, "begin": torch.tensor(begin), "end": torch.tensor(end), "stride": torch.tensor(stride),
        "begin_mask": torch.tensor(masks[:2]), "end_mask": torch.tensor(masks[2:4]),
        "squeeze_mask": torch.tensor(masks[4:]),
    }  # fmt: skip
    index = tuple(
        begin[axis]
        if masks[4 + axis]
        else slice(None if masks[axis] else begin[axis], None if masks[2 + axis] else end[axis], stride[axis])
        for axis in range(2)
    )
    close(run("slice_by_index", operands), torch.from_numpy(np.array(x.numpy()[index])), 0)


def test_negative_indices_and_strides():
    x = torch.arange(6.0)
    operands = {"x": x, "begin": torch.tensor([-1]), "end": torch.tensor([-4]), "stride": torch.tensor([-1])}
    assert run("slice_by_index", operands).tolist() == [5, 4, 3]


@given(st.integers(-3, 2), st.lists(st.integers(0, 2), min_size=1, max_size=5))
@quick
def test_gathering(axis, places):
    x = random(3, 3, 3)
    found = run("gather", {"x": x, "indices": torch.tensor([places, places]), "axis": axis})
    close(found, torch.from_numpy(np.take(x.numpy(), [places, places], axis=axis)), 0)
    along = torch.randint(0, 3, (3, 3, 3), generator=torch.Generator().manual_seed(len(places)))
    found = run("gather_along_axis", {"x": x, "indices": along, "axis": axis})
    close(found, torch.from_numpy(np.take_along_axis(x.numpy(), along.numpy(), axis=axis)), 0)


@pytest.mark.parametrize("kind", ["gather", "gather_along_axis"])
@pytest.mark.parametrize("place", [-1, 3])
def test_nothing_is_gathered_from_outside(kind, place):
    with pytest.raises(BundleError, match=f"reads places .*{place}"):
        run(kind, {"x": random(3), "indices": torch.tensor([place, 1]), "axis": 0})


def test_joining_and_parting():
    x, y = random(2, 3), random(2, 3, seed=1)
    close(run("concat", {"values": (x, y), "axis": -1}), torch.from_numpy(np.concatenate((x, y), axis=-1)), 0)
    close(run("stack", {"values": (x, y), "axis": 1}), torch.from_numpy(np.stack((x, y), axis=1)), 0)
    parts = run("split", {"x": x, "num_splits": 3, "axis": 1})
    assert [part.tolist() for part in parts] == [x[:, i : i + 1].tolist() for i in range(3)]
    parts = run("split", {"x": x, "split_sizes": torch.tensor([1, 2]), "axis": 1})
    assert [part.shape for part in parts] == [(2, 1), (2, 2)]
    close(run("tile", {"x": x, "reps": torch.tensor([2, 1])}), torch.from_numpy(np.tile(x.numpy(), (2, 1))), 0)
    close(run("squeeze", {"x": x[None, :, None], "axes": torch.tensor([0, 2])}), x, 0)
    close(run("expand_dims", {"x": x, "axes": torch.tensor([-1, 0])}), x[None, :, :, None], 0)
    with pytest.raises(BundleError, match="interleaves"):
        run("concat", {"values": (x, y), "axis": 0, "interleave": True})


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_pad(mode):
    x = random(1, 2, 4, 5)
    numpy_mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[mode]
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 2), (2, 1)), mode=numpy_mode)
    got = run("pad", {"x": x, "pad": torch.tensor([0, 0, 0, 0, 1, 2, 2, 1]), "mode": mode})
    close(got, torch.from_numpy(expected), 0)


@given(st.sampled_from([1, 2, 4]), sides)
@quick
def test_pixel_shuffle(factor, side):
    x = random(1, 3 * factor**2, side, 2)
    expected = x.reshape(1, 3, factor, factor, side, 2).permute(0, 1, 4, 2, 5, 3).reshape(1, 3, factor * side, -1)
    close(run("pixel_shuffle", {"x": x, "upscale_factor": factor}), expected, 0)


# --- resizing ---------------------------------------------------------------------------------------------------------


@given(sides, sides, st.integers(1, 20), st.integers(1, 20))
@quick
def test_bilinear_with_corners_aligned(rows, columns, height, width):
    x = random(1, 2, rows, columns)
    expected = F.interpolate(x.double(), size=(height, width), mode="bilinear", align_corners=True)
    shapes = ((1, 2, height, width),)
    by_factor = {
        "x": x, "scale_factor_height": height / rows, "scale_factor_width": width / columns, "align_corners": True
    }  # fmt: skip
    close(run("upsample_bilinear", by_factor, shapes=shapes), expected)
    to_size = {"x": x, "sampling_mode": "STRICT_ALIGN_CORNERS"}
    close(run("resize_bilinear", to_size, shapes=shapes), expected)


@given(sides, sides, st.integers(1, 20), st.integers(1, 20))
@quick
def test_bilinear_with_pixels_as_areas(rows, columns, height, width):
    x = random(1, 2, rows, columns)
    expected = F.interpolate(x.double(), size=(height, width), mode="bilinear", align_corners=False)
    shapes = ((1, 2, height, width),)
    by_factor = {
        "x": x, "scale_factor_height": height / rows, "scale_factor_width": width / columns, "align_corners": False
    }  # fmt: skip
    close(run("upsample_bilinear", by_factor, shapes=shapes), expected)
    close(run("resize_bilinear", {"x": x, "sampling_mode": "UNALIGN_CORNERS"}, shapes=shapes), expected)


@given(sides, st.integers(1, 4))
@quick
def test_nearest(side, factor):
    x = random(1, 2, side, side)
    expected = F.interpolate(x, scale_factor=factor, mode="nearest")
    operands = {"x": x, "scale_factor_height": float(factor), "scale_factor_width": float(factor)}
    close(run("upsample_nearest_neighbor", operands, shapes=(expected.shape,)), expected, 0)


# --- pooling ----------------------------------------------------------------------------------------------------------


@given(st.tuples(*[st.integers(1, 3)] * 2), st.tuples(*[st.integers(1, 2)] * 2), st.booleans(), st.booleans())
@quick
def test_pooling(kernel, stride, padded, excluded):
    x = random(2, 3, 7, 6)
    pad = tuple(side // 2 if padded else 0 for side in kernel)
    operands = {"x": x, "kernel_sizes": torch.tensor(kernel), "strides": torch.tensor(stride)}
    operands |= {"pad_type": "custom", "pad": torch.tensor([side for side in pad for _ in range(2)])}
    expected = F.avg_pool2d(x.double(), kernel, stride, pad, count_include_pad=not excluded)
    close(run("avg_pool", {**operands, "exclude_padding_from_average": excluded}), expected, 1e-6)
    close(run("max_pool", operands), F.max_pool2d(x, kernel, stride, pad), 0)


def test_pooling_that_is_not_read_says_so():
    operands = {"x": random(1, 1, 4), "kernel_sizes": torch.tensor([2]), "pad_type": "same"}
    with pytest.raises(BundleError, match="padding 'same'"):
        run("avg_pool", operands)


@given(st.booleans(), st.booleans(), st.integers(0, 99))
@quick
def test_resampling(aligned, border, seed):
    """Places reach half an image beyond it."""
    x = random(2, 3, 5, 4)
    places = 3 * torch.rand(2, 3, 6, 2, generator=torch.Generator().manual_seed(seed)) - 1.5
    operands = {
        "x": x, "coordinates": places, "sampling_mode": "bilinear", "padding_value": 0.0, "align_corners": aligned,
        "padding_mode": "border" if border else "constant", "coordinates_mode": "normalized_minus_one_to_one",
    }  # fmt: skip
    padding = "border" if border else "zeros"
    expected = F.grid_sample(x.double(), places.double(), padding_mode=padding, align_corners=aligned)
    close(run("resample", operands), expected, 1e-5)
    with pytest.raises(BundleError, match="samples by nearest"):
        run("resample", operands | {"sampling_mode": "nearest"})


@pytest.mark.parametrize("amounts", [(4, 3, 0, 0), (0, 0, 1, 2), (1, 1, 2, 0)])
def test_borders_are_repeated_along_one_axis_too(amounts):
    x = random(1, 2, 5, 6)
    operands = {"x": x, "pad": torch.tensor((0, 0, 0, 0, *amounts)), "mode": "replicate"}
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), amounts[:2], amounts[2:]), mode="edge")
    close(run("pad", operands), torch.from_numpy(expected), 0)
