import copy

import pytest
import torch
from torch import nn

import model
from model.common import ImageConv, MeanShift
from quant import QuantConfig, Schedule, quantize
from quant.distill import Distillation
from quant.methods.ddtb import DualBoundQuantizer
from quant.weight import QuantConv2d
from trainer import DTYPES, Trainer

CPU = torch.device("cpu")
SETTINGS = {"edsr": {"n_feats": 8, "n_resblocks": 1}, "srresnet": {"n_feats": 8, "n_resblocks": 1},
            "rdn": {"RDNconfig": "A", "G0": 8}}


def batch(size=8):
    torch.manual_seed(1)
    return torch.rand(2, 3, size, size) * 255, torch.rand(2, 3, 2 * size, 2 * size) * 255


def seen(network, kind):
    """Lists that fill with the (input, output) of every module of a kind."""
    pairs = []
    for module in network.modules():
        if type(module) is kind:
            module.register_forward_hook(lambda module, x, y: pairs.append((module, x[0], y)))
    return pairs


def distilling(name):
    """(student, its Distillation) in the stage with gates beside, bounds set."""
    torch.manual_seed(0)
    teacher = model.NETWORKS[name](scale=2, **SETTINGS[name])
    student = quantize(copy.deepcopy(teacher), QuantConfig(4))
    objective = Distillation(teacher, Schedule(student, dynamic_ratio=0.5))
    objective.start_epoch(student, 1)
    objective.losses(student, *batch())
    objective.start_epoch(student, 2)
    return student, objective


@pytest.mark.parametrize("name, amp", [("edsr", "bf16"), ("edsr", "fp16"), ("srresnet", "fp16"), ("rdn", "bf16")])
def test_convolutions_run_in_16_bit_and_quantizers_in_32(name, amp):
    student, objective = distilling(name)
    convolutions, features = seen(student, QuantConv2d), seen(student, DualBoundQuantizer)
    with torch.autocast("cpu", dtype=DTYPES[amp]):
        total, parts = objective.losses(student, *batch())
    assert {y.dtype for _, _, y in convolutions} == {DTYPES[amp]}
    assert {y.dtype for _, _, y in features} == {torch.float32}
    assert total.dtype is torch.float32
    assert {part.dtype for part in parts.values()} == {torch.float32}
    total.backward()
    assert {p.grad.dtype for p in student.parameters() if p.grad is not None} == {torch.float32}
    assert all(p.grad is not None for name, p in student.named_parameters() if name.endswith("alpha_upper"))


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("dynamic", [False, True])
def test_levels_are_those_of_the_same_values_in_float32(dtype, dynamic):
    torch.manual_seed(0)
    quantizer = DualBoundQuantizer(8, 8, percentile=99)
    quantizer.set_dynamic(dynamic)
    x = (torch.randn(2, 8, 12, 12) * 40).to(dtype)
    quantizer(x.float())  # starts the bounds
    quantizer.eval()
    expected = quantizer(x.float())
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(quantizer(x), expected)
    low = (x * (255 / (quantizer.alpha_upper - quantizer.alpha_lower)).to(dtype)).round()
    high = (x.float() * (255 / (quantizer.alpha_upper - quantizer.alpha_lower))).round()
    assert not torch.equal(low.float(), high)  # what would become of them in 16 bit


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_percentiles_that_bounds_start_from_are_those_of_the_same_values_in_float32(dtype):
    x = (torch.randn(2, 8, 12, 12) * 40).to(dtype)
    low, high = (DualBoundQuantizer(8, 4, percentile=99) for _ in range(2))
    with torch.autocast("cpu", dtype=dtype):
        low(x)
    high(x.float())
    assert torch.equal(low.alpha_upper, high.alpha_upper) and torch.equal(low.alpha_lower, high.alpha_lower)


@pytest.mark.parametrize("name", ["edsr", "rdn"])
def test_weights_have_the_levels_of_float32(name):
    student, _ = distilling(name)
    conv = next(module for module in student.modules() if type(module) is QuantConv2d)
    expected = conv.quantized_weight()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv.quantized_weight(), expected)


class MeanError:
    """An objective: the mean absolute error."""

    def losses(self, network, lr, hr):
        return (network(lr).float() - hr).abs().mean(), {}


def training(network, amp, *, objective=None, gclip=0.0):
    """A Trainer of the network by SGD with rate 1, whose steps can be taken one by one."""
    return Trainer(network, objective or MeanError(), loader=None, optimizer=torch.optim.SGD(network.parameters(), 1.0),
                   scheduler=None, evaluator=None, recorder=None, run=None, device=CPU, epochs=1, gclip=gclip, amp=amp)


@pytest.mark.parametrize("name", ["edsr", "srresnet"])
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_losses_and_gradients_come_close_to_float32(amp, name):
    found = {}
    for kind in ("off", amp):
        torch.manual_seed(0)
        network = model.NETWORKS[name](scale=2, **SETTINGS[name])
        trainer = training(network, kind)
        if kind == "fp16":
            trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 1024.0})
        lr, hr = batch()
        with trainer.autocast:
            loss, _ = trainer.objective.losses(network, lr, hr)
        trainer.scaler.scale(loss).backward()
        trainer.scaler.unscale_(trainer.optimizer)
        found[kind] = loss.item(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    (loss, gradient), (low_loss, low_gradient) = found["off"], found[amp]
    assert low_loss == pytest.approx(loss, rel=0.01)  # a pixel near 255 is off by up to half a level in bfloat16
    assert torch.cosine_similarity(gradient, low_gradient, dim=0) > 0.99


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("name, images", [("rdn", 2), ("srresnet", 1)])
def test_convolutions_of_images_with_their_mean_run_in_float32(name, images, amp):
    torch.manual_seed(0)
    network = model.NETWORKS[name](scale=2, **SETTINGS[name]).eval()
    pairs = seen(network, ImageConv)
    with torch.no_grad(), torch.autocast("cpu", dtype=DTYPES[amp]):
        network(batch()[0])
    assert len(pairs) == images
    for conv, x, y in list(pairs):
        assert torch.equal(y, conv(x.float()))


def test_the_mean_is_added_in_float32():
    shift = MeanShift(rgb_range=255, sign=1)
    x = torch.rand(1, 3, 4, 4) * 255
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(shift(x), x + shift.bias.view(1, 3, 1, 1))


class Weight(nn.Module):
    """A weight, once 1, which is its own objective: the loss is the weight times lr."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def losses(self, network, lr, hr):
        return (network.weight * lr).sum(), {}


def stepping(amp, *, gclip=0.0):
    network = Weight()
    return training(network, amp, objective=network, gclip=gclip)


def stepped(trainer, gradient):
    """The weight after a step by that gradient."""
    trainer.step(torch.tensor(gradient), None)
    return trainer.network.weight.item()


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_gradients_are_clipped_as_they_are_not_as_they_are_scaled(amp):
    assert stepped(stepping(amp), 0.25) == 0.75
    assert stepped(stepping(amp, gclip=0.5), 7.0) == 0.5


def test_a_step_that_overflows_is_left_out_and_the_scale_falls():
    trainer = stepping("fp16")
    before = trainer.scaler.get_scale()
    assert stepped(trainer, float("inf")) == 1
    assert trainer.scaler.get_scale() == before / 2


@pytest.mark.parametrize("begun, continued", [("off", "fp16"), ("fp16", "bf16"), ("fp16", "off")])
def test_a_run_continues_in_another_precision(begun, continued, launch, experiments):
    assert launch(f"--save run --amp {begun}") == 0
    assert launch(f"--load run --amp {continued} --epochs 2") == 0


@pytest.mark.parametrize("quantized", [False, True])
def test_half_precision_tests_come_close(quantized, launch, experiments, capsys):
    assert launch("--save run --epochs 2", quantized=quantized) == 0
    found = []
    for precision in ("single", "half"):
        assert launch(f"--save run --test_only --precision {precision}", quantized=quantized) == 0
        found.append(float(capsys.readouterr().out.split("PSNR: ")[-1].split()[0]))
    assert found[0] == pytest.approx(found[1], abs=0.05)  # rounding to levels magnifies float16's eleventh bit
