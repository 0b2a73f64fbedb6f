import copy
import math

import pytest
import torch

import loss
from loss import adversarial
from loss.adversarial import CLIP, KINDS, gradient_penalty, relativistic, taken_for_fake, taken_for_real
from model.torch_file import read_torch_file, save_torch_file
from utility import UserError

PATCH = 17


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """An eighth of the channels: the same steps in a fraction of the time."""
    monkeypatch.setattr(adversarial, "N_FEATS", 8)


def build(kind, *, weight=0.1, gan_k=1, seed=0, rgb_range=255):
    torch.manual_seed(seed)
    return loss.build(f"1*L1+{weight}*{kind}", rgb_range=rgb_range, patch_size=PATCH, gan_k=gan_k)


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    sr, hr = (255 * torch.rand(2, 3, PATCH, PATCH, generator=generator) for _ in range(2))
    return sr.requires_grad_(), hr


def weights_of(total):
    return {name: value.clone() for name, value in total.named_parameters()}


def logits(*values):
    return torch.tensor(values).view(-1, 1)


def test_cross_entropies_by_hand():
    assert taken_for_real(logits(0.0, 0.0)).item() == pytest.approx(math.log(2))
    assert taken_for_real(logits(math.log(3))).item() == pytest.approx(math.log(4 / 3))  # probability 3/4
    assert taken_for_fake(logits(math.log(3))).item() == pytest.approx(math.log(4))


def test_relativistic_by_hand():
    # winners 1, 3 against a mean of 2; losers 4, 0 against a mean of 2
    expected = (math.log1p(math.e) + math.log1p(1 / math.e)) / 2 + (math.log1p(math.e**2) + math.log1p(math.e**-2)) / 2
    assert relativistic(logits(1.0, 3.0), logits(4.0, 0.0)).item() == pytest.approx(expected)


def test_gradient_penalty_of_a_linear_discriminator():
    slope = torch.full((3, 4, 4), 2.0)  # its gradient is `slope` everywhere, of length 2 * sqrt(48)
    penalty = gradient_penalty(lambda x: (x * slope).sum((1, 2, 3)), torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
    assert penalty.item() == pytest.approx(10 * (2 * 48**0.5 - 1) ** 2)


@pytest.mark.parametrize("kind", KINDS)
def test_discriminator_learns_and_its_gradients_stay_its_own(kind):
    total, (sr, hr) = build(kind), images()
    before = weights_of(total)
    value = total(sr, hr)
    assert list(total.parts) == ["L1", kind, "DIS"]
    assert sr.grad is None  # the discriminator's steps did not run back into sr
    taught = weights_of(total)
    # the last bias moves real and generated logits alike, which only GAN's loss notices
    assert all(not torch.equal(before[name], taught[name]) for name in before if not name.endswith("classifier.2.bias"))
    own = [parameter.grad.clone() for parameter in total.parameters()]
    value.backward()
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(total.parameters(), own, strict=True))
    assert all(parameter.requires_grad for parameter in total.parameters())
    assert sr.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_sr_is_judged_once_by_the_updated_discriminator(kind):
    total, (sr, hr) = build(kind, weight=1), images()
    total(sr, hr).backward()
    judge = copy.deepcopy(total.terms[kind].discriminator).requires_grad_(False)
    other = sr.detach().clone().requires_grad_()
    judged, real = judge(other / 255), judge(hr / 255)
    adversarial = {"GAN": taken_for_real(judged), "RGAN": relativistic(judged, real)}.get(kind, -judged.mean())
    (torch.nn.functional.l1_loss(other, hr) + adversarial).backward()
    assert total.parts[kind].item() == adversarial.item()
    assert torch.equal(sr.grad, other.grad)


def test_first_discriminator_loss_by_hand():
    total, (sr, hr) = build("GAN"), images()
    judge = copy.deepcopy(total.terms["GAN"].discriminator)
    fake, real = judge(sr.detach() / 255).sigmoid(), judge(hr / 255).sigmoid()
    total(sr, hr)
    expected = -(real.log().mean() + (1 - fake).log().mean())
    torch.testing.assert_close(total.parts["DIS"], expected.detach())  # softplus against log(sigmoid)


@pytest.mark.parametrize("gan_k", [1, 3])
def test_gan_k_steps_a_call(gan_k):
    total = build("WGAN", gan_k=gan_k)
    total(*images())
    assert {state["step"].item() for state in total.terms["WGAN"].optimizer.state.values()} == {gan_k}


def test_dis_is_the_mean_over_the_steps():
    at_once, one_by_one = build("GAN", gan_k=3), build("GAN")
    at_once(*images())
    steps = []
    for _ in range(3):
        one_by_one(*images())
        steps.append(one_by_one.parts["DIS"])
    assert torch.equal(at_once.parts["DIS"], torch.stack(steps).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_discriminators_optimizer(kind):
    (group,) = build(kind).terms[kind].optimizer.param_groups
    expected = (1e-5, (0.0, 0.9)) if kind == "WGAN_GP" else (1e-4, (0.9, 0.999))
    assert (group["lr"], group["betas"]) == expected


def test_wgan_clips_weights():
    total = build("WGAN")
    with torch.no_grad():
        total.terms["WGAN"].discriminator.classifier[-1].weight.fill_(5.0)
    total(*images())
    assert max(parameter.abs().max() for parameter in total.parameters()) == CLIP


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_trains_in_evaluation_or_without_gradients(kind):
    total, (sr, hr) = build(kind), images()
    before = weights_of(total)
    with torch.no_grad():
        total(sr, hr)
    total.eval()(sr, hr)
    assert list(total.parts) == ["L1", kind]
    assert all(torch.equal(before[name], value) for name, value in total.named_parameters())


def test_the_game_is_the_same_at_every_rgb_range():
    parts = []
    for rgb_range in (255, 1):
        total, (sr, hr) = build("WGAN_GP", rgb_range=rgb_range), images()
        torch.manual_seed(1)  # the penalty's random points
        total(sr * (rgb_range / 255), hr * (rgb_range / 255))
        parts.append(torch.stack([total.parts["WGAN_GP"], total.parts["DIS"]]))
    torch.testing.assert_close(parts[0], parts[1], rtol=1e-4, atol=1e-5)  # 255 * (x / 255) rounds


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_bit_identical(kind, tmp_path):
    undisturbed, resumed = build(kind, gan_k=2), build(kind, gan_k=2, seed=7)
    undisturbed(*images(0))
    save_torch_file({"loss": undisturbed.state_dict()}, tmp_path / "loss.pth")
    resumed.load_state_dict(read_torch_file(tmp_path / "loss.pth")["loss"])
    grads = []
    for total in (undisturbed, resumed):
        torch.manual_seed(3)
        for seed in (1, 2):
            sr, hr = images(seed)
            total(sr, hr).backward()
        grads.append(sr.grad)
    assert torch.equal(*grads)
    assert {k: v.item() for k, v in undisturbed.parts.items()} == {k: v.item() for k, v in resumed.parts.items()}
    for one, other in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_grey_counts_as_three_equal_channels():
    parts = []
    for channels in (1, 3):
        total, (sr, hr) = build("GAN"), images()
        total(sr[:, :1].expand(-1, channels, -1, -1), hr[:, :1].expand(-1, channels, -1, -1))
        parts.append(torch.stack([total.parts["GAN"], total.parts["DIS"]]))
    assert torch.equal(*parts)


def test_state_of_another_loss_is_refused():
    state = build("GAN").state_dict()
    with pytest.raises(UserError, match="--loss: this run trains against a RGAN, the checkpoint against a GAN"):
        build("RGAN").load_state_dict(state)
    plain = loss.build("1*L1", rgb_range=255, patch_size=PATCH)
    with pytest.raises(UserError, match="this run trains without a discriminator, the checkpoint against a GAN"):
        plain.load_state_dict(state)
    with pytest.raises(UserError, match="the checkpoint without a discriminator"):
        build("GAN").load_state_dict(plain.state_dict())


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'wgan': choose GAN, WGAN, WGAN_GP, RGAN"):
        adversarial.Adversarial("wgan", patch_size=24, rgb_range=255)
