import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import profile_step
from benchmarks.profile_step import milliseconds_by_part, plain_fake_quantize, plain_percentiles
from quant.functional import fake_quantize


def test_plain_formula_has_the_quantizers_values_and_gradients():
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    leaves = [x.requires_grad_(), torch.tensor([-2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)]
    plain, ours = (function(*leaves, 4) for function in (plain_fake_quantize, fake_quantize))
    assert torch.equal(plain, ours)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (plain, ours)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # sums in another order


def test_plain_percentiles():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    expected = [np.percentile(x.numpy(), q) for q in (1, 99, 100)]
    np.testing.assert_allclose(plain_percentiles(x, 1, 99, 100), expected, rtol=1e-5)  # another rounding


def test_backward_counts_where_its_forward_does():
    x = torch.randn(1, 8, 64, 64)
    w = torch.randn(8, 8, 3, 3, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as run:
        with record_function("gates"):
            y = x * w.mean()
            for _ in range(20):
                y = y.sin()
        F.conv2d(y, w, padding=1).sum().backward()
    spent = milliseconds_by_part(run.events(), cuda=False)
    sines = sum(event.self_cpu_time_total for event in run.events() if event.name in ("aten::sin", "aten::cos")) / 1000
    assert spent["gates"] > sines
    assert spent["convolutions"] > 0
    assert spent["data"] == spent["teacher"] == 0


@pytest.mark.slow
def test_one_network(capsys):
    assert profile_step.main("--model edsr --patch_size 16 --batch_size 2 --repeats 1 --threads 1 --json".split()) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["before"]["percentiles"] > 0
    assert min(one["after"][part] for part in profile_step.PARTS) > 0
