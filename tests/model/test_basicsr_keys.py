"""BasicSR's EDSR: its files load, and give the pictures that its own arithmetic gives."""

import pytest
import torch
from torch import nn

from model.basicsr_keys import from_basicsr, is_basicsr
from quant import open_network
from utility import UserError


class Block(nn.Module):
    def __init__(self, n_feats):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(n_feats, n_feats, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.conv2(torch.relu(self.conv1(x)))


class TheirEDSR(nn.Module):
    """The layers by BasicSR's names; pixels 0..1, the mean colour is no part of the state dict."""

    def __init__(self, *, img_range, scale, n_feats=6, n_resblocks=3):
        super().__init__()
        self.img_range = img_range
        self.conv_first = nn.Conv2d(3, n_feats, 3, padding=1)
        self.body = nn.Sequential(*(Block(n_feats) for _ in range(n_resblocks)))
        self.conv_after_body = nn.Conv2d(n_feats, n_feats, 3, padding=1)
        self.upsample = nn.Sequential()
        for factor in ([2, 2] if scale == 4 else [scale]):
            self.upsample += nn.Sequential(nn.Conv2d(n_feats, n_feats * factor**2, 3, padding=1),
                                           nn.PixelShuffle(factor))
        self.conv_last = nn.Conv2d(n_feats, 3, 3, padding=1)

    def forward(self, x):
        mean = torch.tensor((0.4488, 0.4371, 0.4040)).view(1, 3, 1, 1)
        head = self.conv_first((x - mean) * self.img_range)
        feature = self.conv_after_body(self.body(head)) + head
        return self.conv_last(self.upsample(feature)) / self.img_range + mean


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("img_range", [255, 1])
def test_a_file_of_basicsr_gives_its_pictures(tmp_path, scale, img_range):
    torch.manual_seed(scale)
    theirs = TheirEDSR(img_range=img_range, scale=scale)
    torch.save({"params_ema": theirs.state_dict(), "params": {}}, tmp_path / "net_g.pth")
    ours = open_network(tmp_path / "net_g.pth", model="EDSR", n_feats=6, n_resblocks=3,
                        **({} if img_range == 255 else {"rgb_range": img_range}))
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(ours(lr * img_range) / img_range, theirs(lr), rtol=0, atol=2e-5)


def test_names(tmp_path):
    theirs = TheirEDSR(img_range=255, scale=4).state_dict()
    assert is_basicsr(theirs)
    ours = from_basicsr(theirs, rgb_range=255)
    assert not is_basicsr(ours)
    for name, own in {"conv_first": "head.0", "body.2.conv1": "body.2.body.0", "body.0.conv2": "body.0.body.2",
                      "conv_after_body": "body.3", "upsample.2": "tail.0.2", "conv_last": "tail.1"}.items():
        assert torch.equal(ours[f"{own}.weight"], theirs[f"{name}.weight"])
    torch.save(theirs, tmp_path / "net_g.pth")
    with pytest.raises(UserError, match=r"add --scale and the sizes that are not the default"):
        open_network(tmp_path / "net_g.pth", model="EDSR")
