import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.device import choose_device
from model import parallel
from quant.methods.ddtb import Gate
from utility import UserError

SCRIPT = Path(__file__).with_name("run_ranks.py")
FLAGS = (
    "--cpu --n_threads 0 --scale 2 --n_feats 8 --n_resblocks 1 --patch_size 16 --test_every 4 --data_range 1-5/6-6 "
    "--data_test Tiny --ext img --dynamic_ratio 0.5 --save run --load run --checkpoint_every 1"
)
MORE = {
    "edsr": "--k_bits 4 --epochs 7 --batch_size 4",
    "srresnet": "--model SRResNet --epochs 3 --batch_size 4 --gclip 0.1",
    "alone": "--model SRResNet --k_bits 4 --epochs 7 --batch_size 2",  # each of 2 processes has a batch of one
    "fp16": "--epochs 2 --batch_size 4 --amp fp16",
    "killed": "--k_bits 4 --epochs 99 --batch_size 4",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, tiny_data):
    """{name of a job: (what run_ranks says of it, the last checkpoint)}, run one after the other."""
    root = tmp_path_factory.mktemp("ranks")

    def job(name, flags, world, kill=None, folder=None, late=None):
        return {"name": str(root / (folder or name)), "quantized": "--k_bits" in flags, "world": world, "kill": kill,
                "late": late, "argv": [*FLAGS.split(), *flags.split(), "--dir_data", str(tiny_data)]}

    jobs = {f"{name} {world}": job(f"{name} {world}", MORE[name], world)
            for name in ("edsr", "srresnet", "alone", "fp16") for world in (1, 2)}
    for rank in (0, 1):
        jobs[f"lost {rank}"] = job(f"lost {rank}", MORE["killed"], 2, [rank, signal.SIGKILL])
    jobs["stopped"] = job("stopped", MORE["edsr"], 2, [1, signal.SIGTERM])
    jobs["continued"] = job("continued", MORE["edsr"], 2, folder="stopped")
    jobs["late"] = job("late", "--epochs 1 --batch_size 4", 2, late=1)
    jobs["unequal"] = job("unequal", "--batch_size 3", 2)
    jobs["broken"] = job("broken", "--batch_size 4 --lr 1e30", 2)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun gives each process
    done = subprocess.run([sys.executable, SCRIPT, json.dumps(list(jobs.values()))], capture_output=True, text=True,
                          env=one_thread)
    assert done.returncode == 0, done.stderr
    found = {}
    for name, outcome in zip(jobs, json.loads(done.stdout), strict=True):
        run = Path(jobs[name]["name"]) / "experiment" / "run"
        file = run / "model" / "checkpoint.pth.tar"
        state = torch.load(file, weights_only=True) if file.is_file() else None
        found[name] = (outcome, state, run)
    return found


# Sums over slices round otherwise than sums over the batch, in the seventh digit; Adam and the rounding to levels
# magnify that. A gate has 4 levels inside: one of its values on the other side of a half moves its logits visibly.
TOLERANCES = {"L1": 1e-4, "AT": 1e-4, "GATE": 0.05}


@pytest.mark.parametrize("name", ["srresnet", "fp16", "edsr", "alone"])
def test_two_processes_train_as_one(outcomes, name):
    (one, single, _), (two, double, run) = outcomes[f"{name} 1"], outcomes[f"{name} 2"]
    assert (one["codes"], two["codes"]) == ([0], [0, 0]), two["told"]
    assert two["told"] == ["", ""]
    for row, other in zip(single["history"], double["history"], strict=True):
        assert row["losses"].keys() == other["losses"].keys()
        for part, value in row["losses"].items():
            assert value == pytest.approx(other["losses"][part], rel=TOLERANCES[part]), (row["epoch"], part)
    tested = [row for row in double["history"] if row["psnr"]]  # while calibrating there is nothing to test
    assert len((run / "eval.txt").read_text().splitlines()) == len(tested)
    assert single["best"]["psnr"] == pytest.approx(double["best"]["psnr"], abs=1e-2)


@pytest.mark.parametrize("name", ["edsr", "alone"])
def test_two_processes_choose_the_same_layers_from_the_same_ranges_as_one(outcomes, name):
    (_, single, _), (_, double, _) = outcomes[f"{name} 1"], outcomes[f"{name} 2"]
    for key, value in single["state_dict"].items():
        if key.endswith(("is_dynamic", "initialised")):
            assert torch.equal(value, double["state_dict"][key]), key
        if key.endswith(("max_val", "min_val", "alpha_upper", "alpha_lower", "running_mean", "running_var")):
            torch.testing.assert_close(value, double["state_dict"][key], rtol=1e-2, atol=1e-2)  # after all the training


@pytest.mark.parametrize("lost", [0, 1])
def test_the_end_of_one_process_ends_the_other_with_a_message(outcomes, lost):
    outcome, state, _ = outcomes[f"lost {lost}"]
    assert outcome["codes"][lost] == -9
    assert outcome["codes"][1 - lost] == 2
    assert outcome["told"][1 - lost].startswith("error: another process of this run has ended")
    assert outcome["seconds"] < 20
    assert state["batch"] + state["epoch"] > 0


def test_a_signal_to_one_process_stops_all_after_the_same_step(outcomes):
    outcome, _, _ = outcomes["stopped"]
    assert outcome["codes"] == [143, 143]
    first, second = outcome["told"]
    assert first.startswith("stopped by SIGTERM: saved after batch ") and first == second


def test_a_stopped_run_of_two_continues_to_the_bits_of_an_undisturbed_one(outcomes):
    outcome, state, _ = outcomes["continued"]
    assert outcome["codes"] == [0, 0]
    for key, value in outcomes["edsr 2"][1]["state_dict"].items():
        assert torch.equal(value, state["state_dict"][key]), key


def test_what_one_process_writes_does_not_mislead_another_that_is_still_reading(outcomes):
    outcome, state, _ = outcomes["late"]
    assert (outcome["codes"], outcome["told"]) == ([0, 0], ["", ""])
    assert state["epoch"] == 1


def test_a_batch_that_cannot_be_shared_is_told_by_all(outcomes):
    outcome, _, _ = outcomes["unequal"]
    assert outcome["codes"] == [2, 2]
    assert all("--batch_size 3: cannot be shared by 2 processes equally" in told for told in outcome["told"])


def test_a_loss_that_is_not_finite_is_seen_by_all(outcomes):
    outcome, _, _ = outcomes["broken"]
    assert outcome["codes"] == [2, 2]
    assert all("loss L1 is not finite" in told for told in outcome["told"])


def test_one_process_exchanges_nothing():
    x = torch.rand(2, 3)
    for function in (parallel.all_reduce_mean, parallel.all_reduce_max, parallel.all_gather, parallel.own_slice):
        assert function(x) is x
    assert parallel.is_first() and parallel.world_size() == 1


@pytest.mark.parametrize("error, told", [
    (RuntimeError("[/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:20365: Connection reset"), UserError),
    (torch.distributed.DistBackendError("NCCL error: remote process exited"), UserError),
    (RuntimeError("No backend type associated with device type mps"), RuntimeError),
    (torch.cuda.OutOfMemoryError("CUDA out of memory"), torch.cuda.OutOfMemoryError),
])
def test_only_a_lost_connection_means_that_another_process_has_ended(monkeypatch, error, told):
    def fail(*_):
        raise error

    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    with pytest.raises(told) as caught:
        parallel.all_reduce_max(torch.zeros(1))
    assert ("another process of this run has ended" in str(caught.value)) == (told is UserError)


@pytest.mark.parametrize("error", [torch.distributed.DistNetworkError("address already in use"),
                                   ValueError("environment variable MASTER_ADDR expected, but not set")])
def test_processes_that_cannot_meet(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.distributed, "init_process_group", fail)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"can't meet at .*{error}"), parallel.joined():
        pass


def test_several_gpus_need_torchrun():
    with pytest.raises(UserError, match="--n_GPUs 4: one process uses one GPU; type torchrun --nproc_per_node 4 "), \
            parallel.joined(n_gpus=4):
        pass
    with pytest.raises(UserError, match="--n_GPUs 4: tests run on one GPU"), parallel.joined(n_gpus=4, test_only=True):
        pass


@pytest.mark.parametrize("started, wanted", [("1", 4), ("4", 2)])
def test_as_many_gpus_as_processes_that_were_started(monkeypatch, started, wanted):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", started)):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"--n_GPUs {wanted}: {started} processes were started"), \
            parallel.joined(n_gpus=wanted):
        pass


def test_a_gpu_for_several_processes(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    with pytest.raises(UserError, match="--gpu_id 1: each process has the GPU of its own number"):
        choose_device(gpu_id=1)


def test_tests_run_in_one_process(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="type python instead of torchrun"), parallel.joined(test_only=True):
        pass


def test_one_process_meets_nobody(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with parallel.joined():
        assert (parallel.rank(), parallel.world_size(), parallel.local_rank()) == (0, 1, 0)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    with parallel.joined():
        assert (parallel.rank(), parallel.world_size(), parallel.local_rank()) == (0, 1, 0)


def test_a_rank_that_is_no_number(monkeypatch):
    for name, value in (("RANK", "first"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="RANK=first: is no number"), parallel.joined():
        pass


def test_a_gate_of_a_shared_batch_is_that_of_the_whole_batch_in_one_exchange(monkeypatch):
    torch.manual_seed(0)
    whole, x = Gate(6), torch.randn(4, 6, 5, 7)
    parts, exchanged = [copy.deepcopy(whole) for _ in range(2)], []

    def gathered(own):
        exchanged.append(own)
        return whole.pool(x)

    expected = whole(x)
    expected.square().sum().backward()
    monkeypatch.setattr(parallel, "all_gather", gathered)
    for rank, gate in enumerate(parts):
        monkeypatch.setattr(parallel, "own_slice", lambda batch, rank=rank: batch.chunk(2)[rank])
        logits = gate(x.chunk(2)[rank])
        torch.testing.assert_close(logits, expected.chunk(2)[rank], rtol=1e-6, atol=1e-7)  # fewer images a convolution
        logits.square().sum().backward()
        for key, value in gate.state_dict().items():
            assert torch.equal(value, whole.state_dict()[key]), key
    assert [len(own) for own in exchanged] == [2, 2]
    torch.testing.assert_close(sum(gate.expand.weight.grad for gate in parts), whole.expand.weight.grad)


def test_gradients_are_averaged_in_one_exchange_each_in_its_place(monkeypatch):
    exchanged = []

    def mean(tensor):
        exchanged.append(tensor.clone())
        return tensor * 10

    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "all_reduce_mean", mean)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (3,), (1,))]
    parameters[0].grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T
    parameters[2].grad = torch.tensor([5.0])
    parallel.average_gradients(iter(parameters))
    assert len(exchanged) == 1 and exchanged[0].numel() == 5
    assert parameters[0].grad.tolist() == [[10, 30], [20, 40]]
    assert parameters[1].grad is None and parameters[2].grad.tolist() == [50]


@pytest.mark.slow
def test_torchrun_starts_the_programs_as_they_are(tmp_path, tiny_data):
    (tmp_path / "work").mkdir()
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
               str(root / "main_limitrange_incremental.py"), *FLAGS.split(), *MORE["edsr"].split(), "--dir_data",
               str(tiny_data), "--n_GPUs", "2"]
    done = subprocess.run(command, cwd=tmp_path / "work", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "experiment" / "run" / "model" / "model_best.pth.tar").is_file()
