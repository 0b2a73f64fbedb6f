import copy
import socket

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import VGG19_Weights, vgg
from torchvision.transforms.functional import normalize

import loss
from utility import UserError

DEPTHS = {"VGG22": 8, "VGG54": 35}


@pytest.fixture(scope="module")
def features():
    """torchvision's own VGG19 layers, without the classifier, at random."""
    torch.manual_seed(0)
    return vgg.make_layers(vgg.cfgs["E"], batch_norm=False).requires_grad_(False)


@pytest.fixture(scope="module")
def state(features):
    return {f"features.{key}": value for key, value in features.state_dict().items()}


@pytest.fixture(scope="module")
def small(state):
    """What VGG22 needs and no more."""
    return {key: value for key, value in state.items() if int(key.split(".")[1]) < DEPTHS["VGG22"]}


@pytest.fixture
def write(tmp_path):
    def save(value, name="vgg.pth"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(value, path)
        return path

    return save


def build(spec, path, rgb_range=255):
    return loss.build(spec, rgb_range=rgb_range, patch_size=16, vgg_weights=path)


def images():
    generator = torch.Generator().manual_seed(0)
    sr, hr = (255 * torch.rand(2, 3, 16, 16, generator=generator) for _ in range(2))
    return sr.requires_grad_(), hr


@pytest.mark.parametrize("name", DEPTHS)
def test_values_are_torchvisions(name, features, state, write):
    total, (sr, hr) = build(f"0.5*{name}", write(state)), images()
    value = total(sr, hr)
    value.backward()
    other = sr.detach().clone().requires_grad_()
    seen = [normalize(image / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) for image in (other, hr)]
    expected = 0.5 * F.mse_loss(*(features[: DEPTHS[name]](image) for image in seen))
    expected.backward()
    assert expected > 0 and torch.equal(value, expected)
    assert torch.equal(sr.grad, other.grad)
    assert total.parts[name].item() == value.item()


def test_weights_neither_train_nor_fill_checkpoints(small, write):
    total = build("1*L1+1*VGG22", write(small))
    assert not list(total.parameters()) and not total.state_dict()
    assert total.double().terms["VGG22"].features[0].weight.dtype == torch.float64  # yet they move with the module


def test_classifier_keys_nested_keys_bare_keys_and_half_precision_are_read(small, write):
    sr, hr = images()
    expected = build("1*VGG22", write(small))(sr, hr)
    bare = {key[9:]: value for key, value in small.items()}
    for other in (small | {"classifier.0.bias": torch.zeros(4096)}, {"net": small}, bare):
        assert torch.equal(build("1*VGG22", write(other))(sr, hr), expected)
    half = build("1*VGG22", write({key: value.half() for key, value in small.items()}))(sr, hr)
    torch.testing.assert_close(half, expected, rtol=1e-2, atol=0)  # 11 bits of each weight


def test_same_value_at_every_rgb_range(small, write):
    path, (sr, hr) = write(small), images()
    torch.testing.assert_close(build("1*VGG22", path)(sr, hr), build("1*VGG22", path, rgb_range=1)(sr / 255, hr / 255))


def test_grey_counts_as_three_equal_channels(small, write):
    total, (sr, hr) = build("1*VGG22", write(small)), images()
    grey, other = sr[:, :1], hr[:, :1]
    assert torch.equal(total(grey, other), total(grey.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1)))


def test_float32_under_autocast(small, write):
    total, (sr, hr) = build("1*VGG22", write(small)), images()
    expected = total(sr, hr)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(total(sr, hr), expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: [1, 2], "holds no state dict"),
        (lambda state: {}, "holds no state dict"),
        (lambda state: state | {"features.0.weight": torch.zeros(64, 1, 3, 3)}, "another shape: features.0.weight"),
        (lambda state: state | {"features.0.weight": 3.0}, "missing: features.0.weight"),
        (lambda state: state | {"features.17.weight": torch.zeros(512, 256, 3, 3)}, "unexpected: features.17.weight"),
        (lambda state: state | {"features.19.weight": torch.zeros(512, 9, 3, 3)}, "another shape: features.19.weight"),
    ],
    ids=["list", "empty", "grey", "number", "vgg16", "later"],
)
def test_files_that_are_not_vgg19(change, reason, small, write):
    path = write(change(copy.copy(small)))
    with pytest.raises(UserError, match=reason) as caught:
        build("1*VGG22", path)
    assert str(caught.value).startswith(f"{path}: ") and "--vgg_weights" in str(caught.value)


def test_file_that_ends_too_early(small, write):
    with pytest.raises(UserError, match="missing: features.10.weight"):
        build("1*VGG54", write(small))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="none.pth"):
        build("1*VGG22", tmp_path / "none.pth")


def test_torchvisions_download_is_taken_from_torchs_cache(small, write, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = write(small, "hub/checkpoints/" + VGG19_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    assert torch.equal(build("1*VGG22", None)(*images()), build("1*VGG22", path)(*images()))


def test_no_network_is_one_clear_error(monkeypatch, tmp_path):
    with socket.socket() as unused:  # bound, not listening: connections are refused at once
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        with pytest.raises(UserError, match="--loss: VGG19's weights could not be fetched.*--vgg_weights") as caught:
            build("1*VGG54", None)
    assert "\n" not in str(caught.value)


def test_broken_download_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    broken = tmp_path / "hub" / "checkpoints" / VGG19_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"cut short")
    with pytest.raises(UserError, match=f"{broken}: .*cut short"):
        build("1*VGG54", None)


def test_weights_that_are_not_finite(small, write):
    spoilt = small | {"features.0.bias": torch.full((64,), float("nan"))}
    with pytest.raises(UserError, match="vgg.pth: is spoilt, 1 not finite: features.0.bias"):
        build("1*VGG22", write(spoilt))
