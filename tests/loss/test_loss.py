import pytest
import torch

import loss
from utility import UserError


def build(spec, **settings):
    return loss.build(spec, **({"rgb_range": 255, "patch_size": 17} | settings))


def images(size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sr, hr = (255 * torch.rand(2, 3, size, size, generator=generator) for _ in range(2))
    return sr.requires_grad_(), hr


def test_l1_and_mse_by_hand():
    total = build("0.5*L1+2*MSE")
    sr, hr = torch.tensor([10.0, 20, 30]).view(1, 3, 1, 1), torch.tensor([11.0, 18, 33]).view(1, 3, 1, 1)
    assert total(sr, hr).item() == pytest.approx(0.5 * (1 + 2 + 3) / 3 + 2 * (1 + 4 + 9) / 3, rel=1e-6)  # float32
    assert list(total.parts) == ["L1", "MSE"]
    assert [part.item() for part in total.parts.values()] == pytest.approx([1, 28 / 3], rel=1e-6)


def test_parts_are_detached_scalars_that_sum_to_the_loss():
    total, (sr, hr) = build("0.3*L1+0.7*MSE"), images()
    value = total(sr, hr)
    assert [(part.shape, part.requires_grad) for part in total.parts.values()] == [((), False)] * 2
    assert value.item() == sum(total.parts.values()).item()


@pytest.mark.parametrize("spec", ["1*L1", "1*MSE", "1*RGAN"])
def test_gradients_reach_sr_only(spec):
    sr, hr = images(17)
    hr.requires_grad_()
    build(spec)(sr, hr).backward()
    assert sr.grad.abs().sum() > 0 and hr.grad is None


def test_plain_parts_hold_nothing_that_trains():
    total = build("1*L1+1*MSE")
    assert not list(total.parameters()) and not total.state_dict()


@pytest.mark.parametrize("spec", ["1*L1", "1*MSE", "1*GAN"])
def test_autocast_changes_nothing(spec):
    total, (sr, hr) = build(spec).eval(), images(17)
    expected = total(sr, hr)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(total(sr, hr), expected)
        assert total(sr.bfloat16(), hr).dtype == torch.float32


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        build("1*L1")(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("1*L1", {"L1": 1}),
        (" 1 * L1 + .5*MSE ", {"L1": 1, "MSE": 0.5}),
        ("1*L1+0.006*VGG54+0.001*GAN", {"L1": 1, "VGG54": 0.006, "GAN": 0.001}),
        ("1e+2*MSE+1.e-3*WGAN_GP", {"MSE": 100, "WGAN_GP": 0.001}),
        ("0*L1+1*RGAN", {"L1": 0, "RGAN": 1}),
    ],
)
def test_grammar(spec, weights):
    assert list(loss.parse(spec).items()) == list(weights.items())


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "'' is not <weight>"),
        ("L1", "'L1' is not <weight>"),
        ("1*L1+", "'' is not <weight>"),
        ("1*L1+VGG54", "'VGG54' is not <weight>"),
        ("1*L2", "no part 'L2'"),
        ("1*l1", "no part 'l1'"),
        ("1*VGG33", "no part 'VGG33'"),
        ("1*2*L1", "no part '2[*]L1'"),
        ("-1*L1", "'-1' is not a weight"),
        ("nan*L1", "'nan' is not a weight"),
        ("inf*L1", "'inf' is not a weight"),
        ("*L1", "'' is not a weight"),
        ("a*L1", "'a' is not a weight"),
        ("0*L1", "every weight is 0"),
        ("1*L1+2*L1", "L1 appears twice"),
        ("1*GAN+1*WGAN_GP", "only one of GAN, WGAN_GP"),
    ],
)
def test_grammar_errors_name_the_flag_and_what_is_possible(spec, reason):
    with pytest.raises(UserError, match=reason) as caught:
        build(spec)
    message = str(caught.value)
    assert message.startswith("--loss ") and "\n" not in message
    assert message.endswith("L1, MSE, VGG22, VGG54, GAN, WGAN, WGAN_GP, RGAN")


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("1*GAN", {"patch_size": 16}, "--patch_size 16: too small for GAN"),
        ("1*VGG54", {"patch_size": 15}, "--patch_size 15: too small for VGG54"),
    ],
)
def test_settings_that_cannot_work(spec, settings, message):
    with pytest.raises(UserError, match=message):
        build(spec, **settings)
