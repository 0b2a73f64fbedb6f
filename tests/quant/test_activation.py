import copy
import threading

import numpy as np
import pytest
import torch
from percentiles import numpy_percentile
from torch.utils._python_dispatch import TorchDispatchMode

from quant import Phase, QuantConfig, quantize, set_phase
from quant.activation import collapsed, quantizers
from quant.functional import fake_quantize
from quant.methods.ddtb import DualBoundQuantizer


def feature(n=2, channels=6, seed=0):
    return torch.randn(n, channels, 5, 7, generator=torch.Generator().manual_seed(seed)) * 4


def quantizer(phase=Phase.STATIC, *, k_bits=4, dynamic=False, bounds=None, **settings):
    torch.manual_seed(0)
    module = DualBoundQuantizer(6, k_bits, **{"percentile": 99, **settings})
    if bounds:
        torch.nn.init.constant_(module.alpha_lower, bounds[0])
        torch.nn.init.constant_(module.alpha_upper, bounds[1])
        module.initialised.fill_(True)
        module.read_flags()
    module.set_dynamic(dynamic)
    set_phase(module, phase)
    return module


def bounds_of(module):
    return module.alpha_lower.item(), module.alpha_upper.item()


def test_threads_that_share_a_network_each_have_their_own_gates(monkeypatch):
    module = quantizer(Phase.DYNAMIC, dynamic=True, bounds=(-3, 5)).eval()
    torch.nn.init.normal_(module.gate.expand.weight)
    mine, others = feature(), feature(seed=1) * 3
    expected = module(mine)
    static_bounds = module.static_bounds

    def interrupted():
        monkeypatch.setattr(module, "static_bounds", static_bounds)
        other = threading.Thread(target=module, args=(others,))
        other.start()
        other.join()
        return static_bounds()

    monkeypatch.setattr(module, "static_bounds", interrupted)
    assert torch.equal(module(mine), expected)


@pytest.mark.parametrize("percentile", [95, 99])
@pytest.mark.parametrize("k_bits", [2, 3, 4, 8])
def test_first_training_batch_sets_the_bounds(k_bits, percentile):
    module, x = quantizer(k_bits=k_bits, percentile=percentile), feature()
    y = module(x)
    assert bounds_of(module) == (numpy_percentile(x, 100 - percentile), numpy_percentile(x, percentile))
    assert torch.equal(y, fake_quantize(x, module.alpha_lower, module.alpha_upper, k_bits))
    before = bounds_of(module)
    module(10 * x)
    assert bounds_of(module) == before


@pytest.mark.parametrize("k_bits", range(2, 9))
def test_released_start_takes_bounds_from_data_at_2_bits_alone(k_bits):
    module = quantizer(k_bits=k_bits, init_bounds="released")
    module(feature())
    assert (bounds_of(module) == (-10, 10)) == (k_bits > 2)


@pytest.mark.parametrize("symmetric", [False, True])
def test_calibrated_start_is_the_mean_over_calibration(symmetric):
    module = quantizer(Phase.CALIBRATE, init_bounds="calibrated", symmetric=symmetric)
    batches = [feature(seed=seed) for seed in range(3)]
    for x in batches:
        assert torch.equal(module(x), x)
    module.end_calibration()
    set_phase(module, Phase.STATIC)
    module(100 * batches[0])
    lower, upper = (np.mean([np.percentile(abs(x) if symmetric else x, q) for x in batches]) for q in (1, 99))
    expected = [-upper * 7 / 7.5, upper * 8 / 7.5] if symmetric else [lower, upper]  # 4 bits
    assert [bound.item() for bound in module.static_bounds()] == pytest.approx(expected)
    assert not module.observations


@pytest.mark.parametrize("k_bits", range(2, 9))
def test_symmetric_bounds_have_all_their_levels_whatever_the_bound(k_bits):
    x = torch.linspace(-30, 30, 100_001).view(1, 1, 1, -1)
    module = quantizer(k_bits=k_bits, symmetric=True).eval()
    for bound in (3.3, 7.7, 10.0, 12.345678):
        module.alpha_upper.data.fill_(bound)
        levels = module(x).unique()
        assert len(levels) == 2**k_bits and 0 in levels
        torch.testing.assert_close(levels.diff(), torch.full((2**k_bits - 1,), 2 * bound / (2**k_bits - 1)))


def test_calibrated_start_without_calibration_takes_the_first_batch():
    module, x = quantizer(init_bounds="calibrated"), feature()
    module.end_calibration()
    module(x)
    assert bounds_of(module) == (numpy_percentile(x, 1), numpy_percentile(x, 99))


def test_evaluation_and_calibration_leave_the_bounds():
    module = quantizer()
    with pytest.warns(UserWarning, match="bounds are not set yet, so this network's output means nothing"):
        module.eval()(feature())
    set_phase(module.train(), Phase.CALIBRATE)
    module(feature())
    assert bounds_of(module) == (-10, 10) and not module.initialised


def test_a_trained_bound_that_passes_through_10_is_kept():
    module = quantizer()
    module(feature())
    with torch.no_grad():
        module.alpha_upper.fill_(10)
        module.alpha_lower.fill_(-10)
    again = quantizer()
    again.load_state_dict(module.state_dict())
    for trained in (module, again):
        trained(feature(seed=1))
        assert bounds_of(trained) == (-10, 10)


def test_state_dict_brings_dynamic_and_initialised():
    module = quantizer(dynamic=True, bounds=(-1, 2))
    again = quantizer()
    again.load_state_dict(module.state_dict())
    assert again.dynamic and bounds_of(again) == (-1, 2)
    again(feature())
    assert bounds_of(again) == (-1, 2)


def test_calibration_passes_the_very_tensor_and_records():
    module, x = quantizer(Phase.CALIBRATE), feature().requires_grad_()
    assert module(x) is x
    module(2 * x)
    expected = [[x.min().item(), x.max().item()], [2 * x.min().item(), 2 * x.max().item()]]
    assert [pair.tolist() for pair in module.observations] == expected
    assert not any(pair.requires_grad for pair in module.observations)
    module.end_calibration()
    assert [module.min_val.item(), module.max_val.item()] == expected[-1] and module.observations == []


@pytest.mark.parametrize("phase", [Phase.STATIC, Phase.DYNAMIC])
def test_nothing_is_recorded_while_quantizing(phase):
    module = quantizer(phase)
    module(feature())
    assert module.observations == []


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("phase", [Phase.STATIC, Phase.DYNAMIC])
def test_the_gate_runs_and_counts_where_it_is_due(phase, dynamic, training):
    module, x = quantizer(phase, dynamic=dynamic, bounds=(-3, 5)).train(training), feature()
    y = module(x)
    assert (module.logits is not None) == (dynamic and (training or phase is Phase.DYNAMIC))
    lower, upper = module.alpha_lower, module.alpha_upper
    if dynamic and phase is Phase.DYNAMIC:
        beta = 2 * torch.sigmoid(module.logits)
        assert beta.shape == (2, 2, 1, 1) and not torch.equal(beta, torch.ones_like(beta))
        lower, upper = beta[:, 1:] * lower, beta[:, :1] * upper
    assert torch.equal(y, fake_quantize(x, lower, upper, 4))


def test_logits_of_an_earlier_forward_are_forgotten():
    module = quantizer(Phase.DYNAMIC, dynamic=True, bounds=(-3, 5))
    module(feature())
    module.set_dynamic(False)
    module(feature())
    assert module.logits is None


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("phase", [Phase.STATIC, Phase.DYNAMIC])
def test_gradients_reach_the_feature_both_bounds_and_the_last_layer_of_the_gate(phase, n):
    module, x = quantizer(phase, dynamic=True, bounds=(-3, 5)), feature(n).requires_grad_()
    module(x).square().sum().backward()
    learns = {"alpha_upper", "alpha_lower"} | ({"gate.expand.weight"} if phase is Phase.DYNAMIC else set())
    assert {name for name, parameter in module.named_parameters() if parameter.grad is not None} == learns
    assert x.grad.abs().sum() > 0
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_double_precision():
    module, x = quantizer(Phase.DYNAMIC, dynamic=True).double(), feature().double()
    assert module(x).dtype == torch.float64
    assert bounds_of(module) == (numpy_percentile(x, 1), numpy_percentile(x, 99))


class NoHostRead(TorchDispatchMode):
    """Fails where a value goes from a tensor to Python, which on a GPU waits for all queued work."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.item,
                                           torch.ops.aten.is_nonzero, torch.ops.aten.nonzero), func
        return func(*args, **(kwargs or {}))


def test_the_check_for_host_reads_can_fail():
    with NoHostRead(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(1).item()


@pytest.mark.parametrize("name", ["edsr", "srresnet", "rdn"])
@pytest.mark.parametrize("phase", list(Phase))
def test_no_value_travels_to_the_host_in_a_step(small_network, name, phase):
    network, lr = small_network(name).train(), torch.rand(2, 3, 8, 8) * 255
    set_phase(network, phase)
    with NoHostRead():
        network(lr).sum().backward()


def test_collapsed_names_the_quantizers_whose_bounds_met(small_network):
    network = small_network("edsr")
    assert collapsed(network) == []
    members = quantizers(network)
    with torch.no_grad():
        members["body.1.act2"].alpha_upper.copy_(members["body.1.act2"].alpha_lower - 1)
    assert collapsed(network) == ["body.1.act2"]


@pytest.mark.parametrize("kind", ["pams", "pact"])
def test_a_scale_below_zero_has_collapsed(small_network, kind):
    network = quantize(small_network("edsr", k_bits=32), QuantConfig(2, quantizer=kind)).train()
    network(torch.rand(2, 3, 8, 8) * 255)
    assert collapsed(network) == []
    with torch.no_grad():
        quantizers(network)["body.1.act3"].alpha.fill_(-0.1)
    assert collapsed(network) == ["body.1.act3"]


def test_copies_are_apart():
    module = quantizer(Phase.CALIBRATE)
    other = copy.deepcopy(module)
    other(feature())
    other.set_dynamic(True)
    assert module.observations == [] and not module.dynamic and not module.is_dynamic


def test_symmetric_bounds_are_one_parameter():
    quantizer = DualBoundQuantizer(1, 2, percentile=100, symmetric=True).train()
    x = torch.tensor([[[[-3.0, 0.5, 2.0]]]], requires_grad=True)
    quantizer(x)
    lower, upper = quantizer.static_bounds()
    assert (lower.item(), upper.item()) == (-2, 4)  # 2 bits: -2, 0, 2, 4
    assert [name for name, _ in quantizer.named_parameters() if "alpha" in name] == ["alpha_upper"]
    quantizer(x * 2).sum().backward()
    assert quantizer.alpha_upper.grad is not None


@pytest.mark.parametrize("phase", [Phase.STATIC, Phase.DYNAMIC])
def test_a_network_is_copied_and_saved_whole_after_a_training_forward(phase, tmp_path):
    quantizer = DualBoundQuantizer(4, 4, percentile=99)
    quantizer.set_dynamic(True)
    quantizer.phase = phase
    x = torch.randn(2, 4, 6, 6)
    y = quantizer(x)
    copied = copy.deepcopy(quantizer)
    assert copied.logits is None and quantizer.logits is not None
    torch.save(quantizer, tmp_path / "whole.pt")
    loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert torch.equal(copied.eval()(x), loaded.eval()(x))
    y.sum().backward()


def test_replicas_of_data_parallel_set_the_bounds_once():
    """They share the tensors, not what is in Python; a forward each has new ones."""
    module = quantizer(k_bits=2)
    replicas = [module._replicate_for_data_parallel() for _ in range(2)]
    for replica in replicas:
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            setattr(replica, name, tensor)
    replicas[0](feature())
    bounds = bounds_of(module)
    assert bounds != (-10, 10)
    replicas[1](feature(seed=1) * 3)
    assert bounds_of(module) == bounds
