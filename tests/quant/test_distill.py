import copy

import pytest
import torch

from loss.attention_transfer import attention_transfer
from quant import Phase, QuantConfig, Schedule, quantize
from quant.distill import Distillation, bounds_by_name, parameter_groups


@pytest.fixture
def pair(small_network):
    """(student, distillation), with weights 2 and 300, every quantizer dynamic."""
    network = small_network("edsr", k_bits=32)
    student = quantize(copy.deepcopy(network), QuantConfig(4))
    return student, Distillation(network, Schedule(student, dynamic_ratio=1), w_l1=2.0, w_at=300.0)


def batch():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, 3, size, size, generator=generator) * 255 for size in (8, 16)]


def calibrate(student, distillation):
    distillation.start_epoch(student, 1)
    distillation.losses(student, *batch())


def test_another_network_than_the_schedules_is_refused(pair):
    student, distillation = pair
    other = copy.deepcopy(student)
    with pytest.raises(ValueError, match="another one than that of the schedule"):
        distillation.start_epoch(other, 1)
    calibrate(student, distillation)
    with pytest.raises(ValueError, match="another one than that of the schedule"):
        distillation.losses(other, *batch())
    compiled = torch.compile(student, backend="eager")
    of_compiled = Distillation(distillation.teacher, Schedule(compiled, dynamic_ratio=1))
    of_compiled.start_epoch(compiled, 1)
    assert distillation.losses(compiled, *batch())[1]["L1"] == distillation.losses(student, *batch())[1]["L1"]


def test_calibration_has_nothing_to_minimise(pair):
    student, distillation = pair
    before = copy.deepcopy(student.state_dict())
    distillation.start_epoch(student, 1)
    total, parts = distillation.losses(student, *batch())
    assert total is None and not student.training
    assert parts["L1"] == 2 * (student(batch()[0]) - batch()[1]).abs().mean()
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


@pytest.mark.parametrize(("epoch", "names"), [(2, {"L1", "AT", "GATE"}), (6, {"L1", "AT"})])
def test_parts_by_phase(pair, epoch, names):
    student, distillation = pair
    calibrate(student, distillation)
    distillation.start_epoch(student, epoch)
    lr, hr = batch()
    total, parts = distillation.losses(student, lr, hr)
    sr, feature = student.forward_features(lr)
    expected = {"L1": 2 * (sr - hr).abs().mean(),
                "AT": 300 * attention_transfer(feature, distillation.teacher.body_feature(lr))}
    if "GATE" in names:
        expected["GATE"] = distillation.schedule.gate_regulariser()
    assert student.training and parts.keys() == names
    assert parts == expected and not any(part.requires_grad for part in parts.values())
    assert total == sum(expected.values())


@pytest.mark.parametrize(("epoch", "phase"), [(1, Phase.CALIBRATE), (2, Phase.STATIC), (5, Phase.STATIC),
                                              (6, Phase.DYNAMIC), (60, Phase.DYNAMIC)])
def test_the_phase_of_an_epoch(pair, epoch, phase):
    student, distillation = pair
    calibrate(student, distillation)
    distillation.start_epoch(student, epoch)
    assert distillation.phase is phase


def test_the_teacher_is_never_touched(pair):
    student, distillation = pair
    before = copy.deepcopy(distillation.teacher.state_dict())
    calibrate(student, distillation)
    distillation.start_epoch(student, 2)
    distillation.losses(student, *batch())[0].backward()
    assert not distillation.teacher.training
    assert all(parameter.grad is None for parameter in distillation.teacher.parameters())
    torch.testing.assert_close(distillation.teacher.state_dict(), before, rtol=0, atol=0)


def test_a_student_that_is_its_own_teacher_is_refused(small_network):
    network = small_network("edsr", k_bits=32)
    student = quantize(network, QuantConfig(4))
    with pytest.raises(ValueError, match="share Parameters"):
        Distillation(network, Schedule(student, dynamic_ratio=1))
    assert all(parameter.requires_grad for name, parameter in student.named_parameters() if "body.0.body" in name)


def test_groups_of_the_optimizer(pair):
    student, _ = pair
    others, bounds = parameter_groups(student)
    assert bounds["lr"] == 1e-2 and bounds["weight_decay"] == 0 and "lr" not in others
    assert {id(p) for p in bounds["params"]} == {id(p) for name, p in student.named_parameters() if "alpha_" in name}
    fixed = {"sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias"}
    assert parameter_groups(student, bound_lr=0.1)[1]["lr"] == 0.1
    named = {name for name, p in student.named_parameters() if not any(p is q for q in others["params"])}
    assert named == fixed | {name for name, _ in student.named_parameters() if "alpha_" in name}


def test_bounds_are_named_by_their_quantizers(pair):
    student, distillation = pair
    found = bounds_by_name(student)
    assert len(found) == 12 and found["bounds/body.0.act1/upper"] == 10
    assert bounds_by_name(distillation.teacher) == {}


@pytest.mark.parametrize("name", ["edsr", pytest.param("srresnet", marks=pytest.mark.slow),
                                  pytest.param("rdn", marks=pytest.mark.slow)])
def test_compiled_steps_are_the_same_steps(small_network, name):
    network = small_network(name, k_bits=32).double()  # no tie hangs on a sum's last bit
    plain, compiled = (steps_of_each_phase(network, compiler) for compiler in (None, "aot_eager"))
    assert compiled == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("name", ["edsr", "rdn"])
def test_student_and_teacher_are_one_compiled_graph_each_whatever_sets_the_bounds(small_network, name):
    ran = []

    def counting(graph, _):
        return lambda *inputs: ran.append(graph) or graph.forward(*inputs)

    torch.compiler.reset()
    network = small_network(name, k_bits=32)
    student = quantize(copy.deepcopy(network), QuantConfig(4))
    distillation = Distillation(network, Schedule(student, dynamic_ratio=1), compiler=counting)
    for epoch, graphs in ((1, 0), (2, 1), (2, 2), (6, 2)):  # the first step of epoch 2 sets the bounds: the teacher's
        ran.clear()
        distillation.start_epoch(student, epoch)
        distillation.losses(student, *batch())
        assert len(ran) == graphs


def steps_of_each_phase(network, compiler):
    """Losses and gradients of two steps in each of the two phases that train."""
    torch.compiler.reset()
    torch.manual_seed(0)
    student = quantize(copy.deepcopy(network), QuantConfig(4))
    distillation = Distillation(copy.deepcopy(network), Schedule(student, dynamic_ratio=1), compiler=compiler)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-6)
    distillation.start_epoch(student, 1)
    distillation.losses(student, *(image.double() for image in batch()))
    losses = []
    for epoch in (2, 2, 6, 6):
        distillation.start_epoch(student, epoch)
        total, parts = distillation.losses(student, *(image.double() for image in batch()))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses += [part.item() for part in parts.values()]
        losses.append(sum(p.grad.norm().item() for p in student.parameters() if p.grad is not None))
    return losses
