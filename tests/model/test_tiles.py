import pytest
import torch

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


def test_gates_see_the_whole_image(network):
    network = quantize(network, QuantConfig(4))
    for quantizer in quantizers(network).values():
        quantizer.set_dynamic(True)
    with torch.no_grad():
        network.train()(image(16, 16).repeat(2, 1, 1, 1))
    network.eval()
    lr = image(90, 61)
    lr[..., :30, :] /= 20
    with torch.inference_mode():
        whole = super_resolve(network, lr, scale=2)
        tiled = super_resolve(network, lr, scale=2, chop_size=4 * reach([network]))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)


def test_self_ensemble_is_the_mean_of_eight():
    def network(lr):
        return lr * torch.arange(lr.shape[3])

    lr = image(6, 6)
    assert torch.allclose(super_resolve(network, lr, scale=1, self_ensemble=True),
                          (lr * torch.arange(6) + lr * torch.arange(6).flip(0) + lr * torch.arange(6)[:, None]
                           + lr * torch.arange(6).flip(0)[:, None]).float() / 4)
