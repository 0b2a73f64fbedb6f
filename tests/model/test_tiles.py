import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from data.images import write_png
from model import NETWORKS
from model.inference import super_resolve
from model.tiles import plan_tiles, reach
from quant import QuantConfig, quantize
from quant.activation import quantizers


@pytest.fixture(params=["edsr", "srresnet"])
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param](scale=2, n_feats=8, n_resblocks=1).double().eval()


def image(height, width):
    return torch.rand(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 255


def test_tiles_cover_every_pixel_once():
    seen = torch.zeros(50, 71)
    for tile in plan_tiles(50, 71, size=24, margin=5):
        seen[tile.kept] += 1
        assert seen[tile.window].shape == (24, 24)
        assert seen[tile.window][tile.core].shape == seen[tile.kept].shape
    assert (seen == 1).all()


# float64: sums of another length round differently, by far less than a level; 1e-9 of 255
def test_tiles_give_the_whole_images_result(network):
    lr = image(90, 61)
    size = 2 * reach([network])
    with torch.inference_mode():
        whole = super_resolve(network, lr, scale=2)
        tiled = super_resolve(network, lr, scale=2, chop_size=size)
    assert tiled.shape == (1, 3, 180, 122)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", [1, 4, 9])
def test_tiles_have_room_for_their_margins(size):
    torch.manual_seed(0)
    network, lr = NETWORKS["edsr"](scale=4, n_feats=8, n_resblocks=4).double().eval(), image(90, 61)
    with torch.inference_mode():
        tiled = super_resolve(network, lr, scale=4, chop_size=size)
        torch.testing.assert_close(tiled, network(lr), rtol=0, atol=1e-7)


def test_tiles_of_several_images_are_refused(network):
    with pytest.raises(ValueError, match="tiles are of one image, not of 2"):
        super_resolve(network, image(8, 8).repeat(2, 1, 1, 1), scale=2, chop_size=4)


def test_gates_see_the_whole_image(gated):
    lr = image(90, 61)
    lr[..., :30, :] /= 20
    with torch.inference_mode():
        whole = super_resolve(gated, lr, scale=2)
        tiled = super_resolve(gated, lr, scale=2, chop_size=4 * reach([gated]))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)


@pytest.fixture
def gated(network):
    """A quantized network whose gates are all applied."""
    network = quantize(network, QuantConfig(4))
    for quantizer in quantizers(network).values():
        quantizer.set_dynamic(True)
    with torch.no_grad():
        network.train()(image(16, 16).repeat(2, 1, 1, 1))
    return network.eval()


def test_threads_that_share_a_network_each_have_their_own_tiles(gated, monkeypatch):
    lr, others = image(90, 61), image(61, 90) / 3
    how = {"scale": 2, "chop_size": 4 * reach([gated])}
    with torch.inference_mode():
        expected, whole = super_resolve(gated, lr, **how), gated(lr)
    body_feature, seen = gated.body_feature, []

    def interrupted(tile):
        monkeypatch.setattr(gated, "body_feature", body_feature)
        for work in (lambda: seen.append(super_resolve(gated, others, **how)), lambda: seen.append(gated(lr))):
            other = threading.Thread(target=torch.no_grad()(work))
            other.start()
            other.join()
        return body_feature(tile)

    monkeypatch.setattr(gated, "body_feature", interrupted)
    with torch.inference_mode():
        assert torch.equal(super_resolve(gated, lr, **how), expected)
    assert torch.equal(seen[1], whole)


def test_a_compiled_network_passes_in_tiles(network):
    lr = image(40, 30)
    with torch.inference_mode():
        expected = super_resolve(network, lr, scale=2, chop_size=16)
        assert torch.equal(super_resolve(torch.compile(network, backend="eager"), lr, scale=2, chop_size=16), expected)


def test_self_ensemble_is_the_mean_of_eight():
    def network(lr):
        return lr * torch.arange(lr.shape[3])

    lr = image(6, 6)
    assert torch.allclose(super_resolve(network, lr, scale=1, self_ensemble=True),
                          (lr * torch.arange(6) + lr * torch.arange(6).flip(0) + lr * torch.arange(6)[:, None]
                           + lr * torch.arange(6).flip(0)[:, None]).float() / 4)


@pytest.mark.slow
def test_eight_megapixels_fit_in_two_gibibytes(tmp_path):
    network = quantize(NETWORKS["edsr"](scale=4), QuantConfig(4))
    for quantizer in quantizers(network).values():
        quantizer.set_dynamic(True)
        quantizer.mark_bounds_set()
    torch.save(network.state_dict(), tmp_path / "network.pt")
    folder = tmp_path / "benchmark" / "Big"
    pixels = np.random.default_rng(0).integers(0, 256, (500, 1000, 3), dtype=np.uint8)
    write_png(folder / "LR_bicubic" / "X4" / "onex4.png", pixels)
    write_png(folder / "HR" / "one.png", pixels.repeat(4, axis=0).repeat(4, axis=1))
    program = Path(__file__).parents[2] / "main_limitrange_incremental.py"
    (tmp_path / "code").mkdir()  # runs lie beside the folder that a program is started in
    flags = f"--cpu --scale 4 --k_bits 4 --test_only --chop --refine {tmp_path}/network.pt --dir_data {tmp_path} " \
            f"--data_test Big --save big"
    peak = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); " \
           "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", peak, sys.executable, program, *flags.split()],
                          capture_output=True, text=True, cwd=tmp_path / "code")
    assert done.returncode == 0, done.stderr
    print(f"{int(done.stdout) / 2**20:.2f} GiB")
    assert int(done.stdout) < 2 * 2**20  # in KiB
