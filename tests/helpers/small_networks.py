"""Small networks measured as shared/reference measures whole ones; golden/networks.json keeps the results.

In double precision, so that no processor's order of summation decides a rounding tie. RDN has 5 bits: at 2 to 4, bounds
that are percentiles of a quantized feature are levels of it themselves, which puts other levels exactly on a tie.
"""

import copy
from unittest.mock import patch

import torch
from filling import batch, filled
from released import to_released

from model import NETWORKS, rdn
from quant import Phase, QuantConfig, Schedule, quantize, set_phase
from quant.activation import quantizers
from quant.distill import Distillation, parameter_groups
from quant.released_keys import from_released

# name: (settings, k_bits); RDN's config A means 2 blocks of 2 convolutions here
CASES = {"edsr": ({"n_resblocks": 2, "n_feats": 8, "res_scale": 0.5}, 4),
         "srresnet": ({"n_resblocks": 2, "n_feats": 8}, 3),
         "rdn": ({"G0": 8, "RDNconfig": "A"}, 5)}


def measured(name):
    """{what: list of numbers} of one network at scale 2, weights by the fill rule."""
    settings, k_bits = CASES[name]
    with patch.dict(rdn.CONFIGS, {"A": (2, 2, 8)}):
        network = NETWORKS[name](scale=2, **settings)
    network.load_state_dict(filled(network.state_dict()))
    network = network.double().eval()
    student = quantize(copy.deepcopy(network), QuantConfig(k_bits))
    state = from_released(filled(to_released(student.state_dict())))
    student.load_state_dict(state)
    with torch.no_grad():
        results = {"full precision": _picture(network(_batch(0)[0])), "test mode": _picture(student(_batch(0)[0]))}
    for phase in (Phase.STATIC, Phase.DYNAMIC):
        student.load_state_dict(state)
        results[f"{phase.value} step"] = _step(network, student.train(), phase)
    new = quantize(copy.deepcopy(network), QuantConfig(k_bits))
    new.load_state_dict({**new.state_dict(), **{key: value for key, value in state.items() if ".gate." in key}})
    results["schedule"] = _schedule(network, new)
    return results


def _batch(number):
    return [tensor.double() for tensor in batch(number, size=6, scale=2)]


def _picture(sr):
    return [sr.mean().item(), sr.std().item(), *sr[1, :, 3, 4].tolist()]


def _step(network, student, phase):
    """Losses, and the norm of each gradient there is."""
    student.zero_grad()
    schedule = Schedule(student, dynamic_ratio=0)
    for quantizer in quantizers(student).values():
        quantizer.set_dynamic(True)
    schedule.phase = phase
    set_phase(student, phase)
    total, parts = Distillation(copy.deepcopy(network), schedule).losses(student, *_batch(0))
    total.backward()
    norms = [parameter.grad.norm() for parameter in student.parameters() if parameter.grad is not None]
    return [*(part.item() for part in parts.values()), *(norm.item() for norm in norms)]


def _schedule(network, student):
    """Losses of epochs 2, 5, 6 and 7, a batch each; then which quantizers are dynamic, all bounds, and an image."""
    schedule = Schedule(student, dynamic_ratio=0.5)
    distillation = Distillation(network, schedule)
    optimizer = torch.optim.Adam(parameter_groups(student), lr=1e-4)
    distillation.start_epoch(student, 1)
    for number in range(10, 13):
        distillation.losses(student, *_batch(number))
    results = []
    for number, epoch in enumerate((2, 5, 6, 7), start=13):
        distillation.start_epoch(student, epoch)
        total, parts = distillation.losses(student, *_batch(number))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        results += [part.item() for part in parts.values()]
    members = quantizers(student).values()
    with torch.no_grad():
        image = student.eval()(_batch(0)[0])
    bounds = [bound.item() for member in members for bound in (member.alpha_lower, member.alpha_upper)]
    return [*results, *(float(member.dynamic) for member in members), *bounds, *_picture(image)]
