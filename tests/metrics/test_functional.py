import math

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from metrics.functional import psnr, ssim, to_luma


def noise(channels=3, height=24, width=30, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (channels, height, width), dtype=np.uint8))


def ssim_by_windows(x, y):
    """Wang's definition, one window after the other."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb, cov = ((window * p * q).sum() for p, q in ((a - ma, a - ma), (b - mb, b - mb), (a - ma, b - mb)))
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(2, ("38.274168", "0.961445")), (3, ("34.742155", "0.929886")), (4, ("32.633562", "0.900241"))],
)
def test_means_are_matlabs_to_the_last_digit(shared, scale, expected):
    folder = shared / "data" / "matlab_metrics" / f"X{scale}"
    pairs = [
        [torch.from_numpy(iio.imread(folder / kind / path.name)).permute(2, 0, 1) for kind in ("SR", "HR")]
        for path in sorted((folder / "HR").iterdir())
    ]
    means = [np.mean([metric(sr, hr, border=scale) for sr, hr in pairs]) for metric in (psnr, ssim)]
    assert tuple(f"{mean:.6f}" for mean in means) == expected


def test_luma_is_matlabs_at_the_corners_of_the_colour_cube():
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    luma = to_luma(colours.T[:, None])
    # MATLAB: 255 * rgb2ycbcr([0 0 0; 1 1 1; 1 0 0; 0 1 0; 0 0 1])(:, 1), the rows of its published matrix plus 16
    expected = torch.tensor([[[16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966]]], dtype=torch.float64)
    torch.testing.assert_close(luma, expected, rtol=0, atol=1e-12)  # sums of three float64 products
    assert luma.dtype == torch.float64


def test_luma_of_one_channel_is_that_channel():
    grey = noise(channels=1)
    assert torch.equal(to_luma(grey), grey.double())


@pytest.mark.parametrize("luma", [True, False])
def test_ssim_equals_its_definition(luma):
    sr, hr = noise(seed=1), noise(seed=2)
    planes = [(to_luma(sr), to_luma(hr))] if luma else [(sr[c : c + 1], hr[c : c + 1]) for c in range(3)]
    crop = np.s_[2:-2, 2:-2]
    expected = np.mean([ssim_by_windows(x[0].double().numpy()[crop], y[0].double().numpy()[crop]) for x, y in planes])
    # variances as E[xy] - E[x]E[y] lose some 1e-12 of 255^2 / c2
    assert ssim(sr, hr, border=2, luma=luma) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("luma", [True, False])
def test_identical_images(luma):
    image = noise()
    assert psnr(image, image, border=4, luma=luma) == math.inf
    assert ssim(image, image, border=4, luma=luma) == 1.0


def test_psnr_of_a_constant_error():
    hr = torch.full((3, 9, 9), 100, dtype=torch.uint8)
    assert psnr(hr + 5, hr, border=0, luma=False) == pytest.approx(20 * math.log10(255 / 5), abs=1e-12)
    # an equal error in R, G and B is 219 / 255 of it in luma
    assert psnr(hr + 5, hr, border=0) == pytest.approx(20 * math.log10(255 / 5 * 255 / 219), abs=1e-12)


def test_border_is_left_out():
    hr = noise()
    sr = hr.clone()
    sr[:, :3], sr[:, :, -3:] = 0, 255
    assert psnr(sr, hr, border=3) == math.inf
    assert psnr(sr, hr, border=2) < math.inf


def test_dtype_makes_no_difference():
    sr, hr = noise(seed=1), noise(seed=2)
    for metric in (psnr, ssim):
        assert metric(sr, hr, border=1) == metric(sr.float(), hr.long(), border=1)


def test_ssim_needs_one_window_inside_the_border():
    exactly_one = noise(height=19, width=19)
    assert ssim(exactly_one, exactly_one, border=4) == 1.0
    with pytest.raises(ValueError, match="SSIM needs 11x11 pixels inside the border, there are 10x11"):
        ssim(exactly_one[:, 1:], exactly_one[:, 1:], border=4)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_wrong_input_is_named(metric):
    with pytest.raises(ValueError, match="differ in shape"):
        metric(noise(), noise(width=31), border=0)
    with pytest.raises(ValueError, match="a border of 12 pixels leaves nothing of 24x30"):
        metric(noise(), noise(), border=12)
    with pytest.raises(ValueError, match=r"expected an image \[3, H, W\] or \[1, H, W\]"):
        metric(noise()[None], noise()[None], border=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_figures_of_the_cpu():
    sr, hr = noise(seed=1, height=200, width=300), noise(seed=2, height=200, width=300)
    for metric in (psnr, ssim):
        # float64 sums in another order
        assert metric(sr.cuda(), hr.cuda(), border=4) == pytest.approx(metric(sr, hr, border=4), abs=1e-10)
