import pytest
import torch

from loss.adversarial import MIN_PATCH, Discriminator


@pytest.mark.parametrize("patch_size", [MIN_PATCH, 33, 48])
def test_one_logit_per_image_for_any_patch(patch_size):
    assert Discriminator(patch_size=patch_size)(torch.rand(1, 3, patch_size, patch_size)).shape == (1, 1)


def test_layers_are_srgans():
    convs = [m for m in Discriminator(patch_size=32).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [conv.stride[0] for conv in convs] == [1, 2, 1, 2, 1, 2, 1, 2]
