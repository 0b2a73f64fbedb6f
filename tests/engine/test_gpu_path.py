"""A GPU's path without a GPU: tensors that have a device and no values.

Any operation that mixes devices raises, and so does whatever asks the device for a value: a host that waits for it.
"""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import loss
import model
from loss.supervised import Supervised
from quant import Phase, QuantConfig, Schedule, quantize
from quant.activation import quantizers
from quant.distill import Distillation, parameter_groups
from quant.methods import METHODS
from quant.weight import QuantConv2d

CUDA = torch.device("cuda")
META = torch.device("meta")
SETTINGS = {"edsr": {"n_feats": 8, "n_resblocks": 1}, "srresnet": {"n_feats": 8, "n_resblocks": 1},
            "rdn": {"RDNconfig": "A", "G0": 8}}
EPOCHS = {Phase.CALIBRATE: 1, Phase.STATIC: 2, Phase.DYNAMIC: 6}
PHASES = pytest.mark.parametrize("phase", EPOCHS, ids=lambda phase: phase.value)
NETWORKS = pytest.mark.parametrize("name", SETTINGS)

pytestmark = pytest.mark.usefixtures("small_rdn")


# a convolution of tensors that are only said to be on a GPU
PROBE = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    torch.nn.Conv2d(1, 1, 3, device="cuda")(torch.empty(1, 1, 8, 8, device="cuda"))
"""


@pytest.fixture(scope="session")
def convolutions_can_be_faked():
    """Older versions of PyTorch ask a driver for the convolution and crash; a process of its own finds out."""
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True)
    if probe.returncode:
        pytest.skip(f"PyTorch {torch.__version__} can't convolve fake CUDA tensors without a GPU")


@pytest.fixture
def fake(monkeypatch, convolutions_can_be_faked):
    """The mode in which tensors have no values, and those said to be on a GPU need none, mixed precision included."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    return FakeTensorMode(allow_non_fake_inputs=False)


def placed(network, device):
    """The network with parameters and buffers of that device, their values unknown."""
    for module in network.modules():
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                kept = isinstance(tensor, nn.Parameter)
                setattr(module, name, nn.Parameter(empty, tensor.requires_grad) if kept else empty)
    return network


def batch(device):
    return torch.empty(2, 3, 8, 8, device=device), torch.empty(2, 3, 16, 16, device=device)


def distilling(name, phase, *, quantizer="ddtb", started=True):
    """(student, its Distillation in a phase, every second quantizer dynamic), on the CPU."""
    teacher, student = (model.NETWORKS[name](scale=2, **SETTINGS[name]) for _ in range(2))
    quantize(student, QuantConfig(4, quantizer=quantizer))
    objective = Distillation(teacher, Schedule(student, dynamic_ratio=0.5))
    for number, member in enumerate(quantizers(student).values()):
        if started:
            member.mark_bounds_set()
        if member.gate is not None:
            member.set_dynamic(number % 2 == 0)
    objective.schedule.chosen = True
    objective.start_epoch(student, EPOCHS[phase])
    return student, objective


def losses(student, objective, device):
    placed(student, device)
    placed(objective.teacher, device)
    return objective.losses(student, *batch(device))


@PHASES
@NETWORKS
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_losses_of_every_phase(fake, name, phase, amp):
    student, objective = distilling(name, phase)
    convolution = next(module for module in student.modules() if type(module) is QuantConv2d)
    found = []
    convolution.register_forward_hook(lambda module, x, y: found.append(y.dtype))
    with fake, torch.autocast("cuda", dtype=torch.bfloat16, enabled=amp == "bf16"):
        total, parts = losses(student, objective, CUDA)
    assert set(found) == {torch.bfloat16 if amp == "bf16" else torch.float32}
    assert {part.device.type for part in parts.values()} == {"cuda"}
    assert {part.dtype for part in parts.values()} == {torch.float32}
    assert ("GATE" in parts) == (phase is Phase.STATIC) and (total is None) == (phase is Phase.CALIBRATE)


@NETWORKS
def test_bounds_start_in_the_first_training_step(fake, name):
    student, objective = distilling(name, Phase.STATIC, started=False)
    with fake:
        losses(student, objective, CUDA)
    assert all(member.bounds_set for member in quantizers(student).values())


@pytest.mark.parametrize("quantizer", METHODS)
def test_losses_of_the_compared_methods(fake, quantizer):
    student, objective = distilling("edsr", Phase.DYNAMIC, quantizer=quantizer)
    with fake:
        total, _ = losses(student, objective, CUDA)
    assert total.device.type == "cuda"


@PHASES
@NETWORKS
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_tests_of_every_phase(fake, name, phase, dtype):
    student, _ = distilling(name, phase)
    with fake, torch.no_grad(), torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
        assert placed(student.eval(), CUDA)(batch(CUDA)[0]).device.type == "cuda"


@NETWORKS
def test_full_precision_losses(fake, name):
    network, objective = model.NETWORKS[name](scale=2, **SETTINGS[name]), Supervised(loss.build(
        "1*L1+0.5*MSE", rgb_range=255, patch_size=16))
    objective.start_epoch(network, 1)
    with fake:
        total, _ = objective.losses(placed(network, CUDA), *batch(CUDA))
    assert total.device.type == "cuda"


@pytest.mark.parametrize("phase", [Phase.STATIC, Phase.DYNAMIC], ids=lambda phase: phase.value)
@NETWORKS
def test_a_step_with_its_backward(name, phase):
    """On `meta`: autograd asks for a driver before it goes back through tensors said to be on a GPU."""
    student, objective = distilling(name, phase)
    total, _ = losses(student, objective, META)
    optimizer = torch.optim.Adam(parameter_groups(student), lr=1e-4)
    total.backward()
    optimizer.step()
    assert {parameter.grad.device.type for parameter in student.parameters() if parameter.grad is not None} == {"meta"}
    assert all(parameter.grad is not None for name, parameter in student.named_parameters()
               if parameter.requires_grad and ".gate." not in name)


@pytest.mark.parametrize("wrong", [
    lambda x: x.amax().item(), lambda x: x * torch.ones(3, 8, 8), lambda x: F.relu(x) if x.mean() > 0 else x,
    lambda x: x.cpu().numpy(),
], ids=["value", "device", "branch", "numpy"])
def test_what_a_gpu_would_wait_for_or_refuse_is_seen(fake, wrong):
    with fake, pytest.raises((RuntimeError, TypeError)):
        wrong(batch(CUDA)[0])
