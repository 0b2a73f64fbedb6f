import copy
import logging

import numpy as np
import pytest
import torch

from quant import Phase, QuantConfig, Schedule, quantize
from quant.activation import gates_in_use, quantizers
from quant.phase import Phased

EPOCHS = {1: Phase.CALIBRATE, 2: Phase.STATIC, 5: Phase.STATIC, 6: Phase.DYNAMIC, 60: Phase.DYNAMIC}


def image(seed=0, n=2):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 255


@pytest.fixture
def network(small_network):
    return quantize(small_network("edsr", k_bits=32), QuantConfig(4))


@pytest.fixture
def calibrated(network):
    """(network, schedule) after an epoch of three batches."""
    schedule = Schedule(network, dynamic_ratio=0.5)
    schedule.start_epoch(1)
    calibrate(network, range(3))
    return network, schedule


@torch.no_grad()
def calibrate(network, seeds):
    for seed in seeds:
        network.eval()(image(seed))


@pytest.mark.parametrize(("epoch", "phase"), EPOCHS.items())
def test_phase_of_each_epoch(network, epoch, phase):
    schedule = Schedule(network, dynamic_ratio=0.5)
    schedule.start_epoch(epoch)
    assert schedule.phase_in(epoch) is schedule.phase is phase
    assert {module.phase for module in network.modules() if isinstance(module, Phased)} == {phase}


def test_first_stage_can_end_elsewhere(network):
    schedule = Schedule(network, dynamic_ratio=0.5, first_stage_epoch=3)
    assert [schedule.phase_in(epoch) for epoch in (1, 2, 3)] == list(Phase)


@pytest.mark.parametrize("ratio, told", [
    (0.5, "3 of 6 quantizers are dynamic (--dynamic_ratio 0.5)"),
    (0, "0 of 6 quantizers are dynamic (--dynamic_ratio 0)"),
    (0.1, "warning: 0 of 6 quantizers are dynamic (--dynamic_ratio 0.1)")])
def test_the_log_says_how_many_gates_there_are(network, ratio, told, caplog):
    schedule = Schedule(network, dynamic_ratio=ratio)
    schedule.start_epoch(1)
    calibrate(network, range(2))
    with caplog.at_level(logging.INFO):
        for epoch in (2, 3):
            schedule.start_epoch(epoch)
    assert caplog.messages == [told]


def test_a_new_schedule_begins_without_dynamic_quantizers_and_changes_none_before(small_network):
    network = small_network("edsr", dynamic=1)
    state = copy.deepcopy(network.state_dict())
    schedule = Schedule(network, dynamic_ratio=0.5)
    assert state.keys() == network.state_dict().keys() and gates_in_use(network)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    schedule.start_epoch(1)
    assert not any(quantizer.dynamic or quantizer.is_dynamic for quantizer in quantizers(network).values())


def test_network_and_schedule_are_continued_in_either_order(calibrated, small_network):
    network, schedule = calibrated
    schedule.start_epoch(2)
    chosen = [name for name, quantizer in quantizers(network).items() if quantizer.dynamic]
    for network_first in (True, False):
        other = small_network("edsr")
        if network_first:
            other.load_state_dict(network.state_dict())
        again = Schedule(other, dynamic_ratio=schedule.dynamic_ratio)
        again.load_state_dict(schedule.state_dict())
        if not network_first:
            other.load_state_dict(network.state_dict())
        again.start_epoch(7)
        assert list(gates_in_use(other)) == chosen != []


@pytest.mark.parametrize("epoch", [0, -1])
def test_epochs_count_from_one(small_network, epoch):
    with pytest.raises(ValueError, match=f"epoch {epoch}: epochs count from 1"):
        Schedule(small_network("edsr"), dynamic_ratio=0.5).start_epoch(epoch)


def test_scores_are_population_variances_of_maxima_and_minima(calibrated):
    network, schedule = calibrated
    first = quantizers(network)["body.0.act1"]  # sees the head's output
    with torch.no_grad():
        seen = [network.head(network.sub_mean(image(seed))) for seed in range(3)]
    expected = np.var([x.max() for x in seen]) + np.var([x.min() for x in seen])
    assert schedule.scores()["body.0.act1"] == pytest.approx(expected, rel=1e-5)
    assert len(first.observations) == 3 and list(schedule.scores()) == list(quantizers(network))


@pytest.mark.parametrize(("ratio", "count"), [(0, 0), (0.1, 0), (0.17, 1), (0.5, 3), (0.99, 5), (1, 6)])
def test_the_share_that_varied_most_becomes_dynamic(calibrated, ratio, count):
    network, schedule = calibrated
    schedule.dynamic_ratio = ratio
    scores = schedule.scores()
    schedule.start_epoch(2)
    dynamic = [name for name, quantizer in quantizers(network).items() if quantizer.dynamic]
    assert set(dynamic) == set(sorted(scores, key=scores.get)[len(scores) - count :])
    assert all(quantizer.dynamic == bool(quantizer.is_dynamic) for quantizer in quantizers(network).values())


def test_the_choice_is_made_once_and_its_records_forgotten(calibrated):
    network, schedule = calibrated
    schedule.start_epoch(2)
    chosen = [quantizer.dynamic for quantizer in quantizers(network).values()]
    assert schedule.scores() == {}
    for epoch in (3, 6, 7):
        schedule.start_epoch(epoch)
        assert [quantizer.dynamic for quantizer in quantizers(network).values()] == chosen


def test_nothing_is_recorded_after_calibration(calibrated):
    network, schedule = calibrated
    schedule.start_epoch(2)
    calibrate(network, [5])
    assert schedule.scores() == {}


def test_gate_regulariser_is_the_mean_over_gates_of_their_mean_square(calibrated):
    network, schedule = calibrated
    schedule.start_epoch(2)
    network.train()(image())
    logits = [quantizer.logits for quantizer in quantizers(network).values() if quantizer.dynamic]
    assert len(logits) == 3
    expected = np.mean([logit.detach().double().square().mean().item() for logit in logits])
    regulariser = schedule.gate_regulariser()
    assert regulariser.item() == pytest.approx(expected, rel=1e-6)  # float32
    regulariser.backward()
    learnt = [quantizer.gate.expand.weight.grad is not None for quantizer in quantizers(network).values()]
    assert learnt == [quantizer.dynamic for quantizer in quantizers(network).values()]


def test_no_gate_no_regulariser(calibrated):
    network, schedule = calibrated
    schedule.dynamic_ratio = 0
    schedule.start_epoch(2)
    network.train()(image())
    assert schedule.gate_regulariser() is None


def copy_of(network, schedule, small_network):
    """Another pair, that takes both states over as a resumed run does."""
    other = quantize(small_network("edsr", k_bits=32), QuantConfig(4))
    again = Schedule(other, dynamic_ratio=schedule.dynamic_ratio)
    other.load_state_dict(network.state_dict())
    again.load_state_dict(schedule.state_dict())
    return other, again


def test_state_survives_in_the_middle_of_calibration(calibrated, small_network):
    network, schedule = calibrated
    other, again = copy_of(network, schedule, small_network)
    assert again.scores() == schedule.scores() and again.phase is Phase.CALIBRATE
    for pair in ((network, schedule), (other, again)):
        calibrate(pair[0], [3])
        pair[1].start_epoch(2)
    assert [q.dynamic for q in quantizers(other).values()] == [q.dynamic for q in quantizers(network).values()]


@pytest.mark.parametrize("epoch", [2, 6])
def test_state_survives_after_the_choice(calibrated, small_network, epoch):
    network, schedule = calibrated
    schedule.start_epoch(epoch)
    network.train()(image())
    other, again = copy_of(network, schedule, small_network)
    assert again.chosen and again.phase is schedule.phase
    assert [q.dynamic for q in quantizers(other).values()] == [q.dynamic for q in quantizers(network).values()]
    again.start_epoch(epoch)  # chooses nothing anew
    assert torch.equal(other.eval()(image(7)), network.eval()(image(7)))


def test_state_is_of_plain_values_and_tensors(calibrated, tmp_path):
    torch.save(calibrated[1].state_dict(), tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    assert state["phase"] == "calibrate" and state["observations"]["body.0.act1"].shape == (3, 2)


def test_random_choice_is_as_many_by_seed_alone(network):
    chosen = []
    for seed, images in ((1, range(3)), (1, range(5, 8)), (2, range(3))):
        schedule = Schedule(network, dynamic_ratio=0.5, dynamic_choice="random", seed=seed)
        schedule.start_epoch(1)
        calibrate(network, images)
        schedule.start_epoch(2)
        chosen.append([name for name, quantizer in quantizers(network).items() if quantizer.dynamic])
    assert len(chosen[0]) == len(quantizers(network)) // 2
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize("change", [{"dynamic_ratio": -0.3}, {"dynamic_ratio": 30}, {"dynamic_choice": "varience"},
                                    {"first_phase": "warm"}])
def test_values_that_cannot_be_are_refused(network, change):
    with pytest.raises(ValueError, match=str(next(iter(change.values())))):
        Schedule(network, **{"dynamic_ratio": 0.5, **change})


def test_a_network_that_is_not_quantized_has_no_schedule(small_network):
    with pytest.raises(ValueError, match="holds no quantizers"):
        Schedule(small_network("edsr", k_bits=32), dynamic_ratio=0.5)


def test_that_no_gate_is_chosen_is_a_warning(network, caplog):
    Schedule(network, dynamic_ratio=0.5).start_epoch(2)  # nothing was recorded
    assert [record.levelname for record in caplog.records] == ["WARNING"]
