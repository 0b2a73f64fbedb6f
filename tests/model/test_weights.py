"""Weights as people bring them: under any key, with any prefix, of any format."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model import NETWORKS
from model.torch_file import read_torch_file
from model.weights import load_strictly, read_weights
from quant import open_network
from utility import UserError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return NETWORKS["srresnet"](scale=2, n_feats=4, n_resblocks=1)


@pytest.fixture
def state(network):
    return network.state_dict()


@pytest.fixture
def read(tmp_path):
    """Function: the state dict that is read from what torch.save writes of a value."""
    def save_and_read(value):
        torch.save(value, tmp_path / "w.pt")
        return read_weights(tmp_path / "w.pt").state

    return save_and_read


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("key", ["state_dict", "params", "params_ema", "model", "model_state_dict", "net", "generator",
                                 "netG", "something_else"])
def test_any_key(read, state, key):
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1.0}]}
    assert_same(read({key: state, "iter": 3, "optimizer": optimizer, "best": {"psnr": 1.0}}), state)


def test_the_moving_average_comes_first_and_the_generator_before_the_discriminator(read, state):
    other = {name: tensor * 0 for name, tensor in state.items()}
    for key, average in (("params", "params_ema"), ("model", "ema"), ("state_dict", "state_dict_ema"),
                         ("model", "model_ema"), ("net", "ema_state_dict")):
        assert_same(read({key: other, average: state}), state)
    assert_same(read({"model": state, "ema": {"decay": 0.999, "shadow_params": list(other.values())}}), state)
    assert_same(read({"discriminator": other, "generator": state}), state)
    with pytest.raises(UserError, match="w.pt: holds several state dicts .first, second."):
        read({"first": state, "second": state})


def test_keys_in_keys(read, state):
    assert_same(read({"model": {"state_dict": {"params": state}}, "epoch": 1}), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module.module.", "model.module._orig_mod.",
                                    "_orig_mod.module.model.model.", "net.", "generator.module.", "netG."])
def test_any_prefix(read, tmp_path, state, prefix):
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    assert_same(read(wrapped), state)
    save_file(wrapped, tmp_path / "w.safetensors")
    assert_same(read_weights(tmp_path / "w.safetensors").state, state)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_weights, open_network):
        with pytest.raises(UserError, match="pipe: is a pipe or device"):
            read(tmp_path / "pipe")


def test_a_mix_of_prefixes_and_wrapped_parts(read, state):
    prefixes = ["", "module.", "model.", "module._orig_mod."]
    assert_same(read({prefixes[i % 4] + name: tensor for i, (name, tensor) in enumerate(state.items())}), state)
    assert_same(read({name.replace("residual.", "residual._orig_mod.module."): tensor
                      for name, tensor in state.items()}), state)
    with pytest.raises(UserError, match="conv_mid.weight more than once"):
        read({**state, "module.conv_mid.weight": state["conv_mid.weight"] * 2})


def test_counters_and_what_is_no_tensor_are_left_out_with_a_line(read, state, caplog):
    caplog.set_level("INFO")
    counters = {"total_ops": torch.zeros(1), "conv_mid.total_params": torch.zeros(1), "module.total_ops": torch.ones(1)}
    assert_same(read({**state, **counters}), state)
    assert "left out 3 counters" in caplog.text
    averaged = {f"module.{name}": tensor for name, tensor in state.items()}
    assert_same(read({"n_averaged": torch.tensor(5), **averaged}), state)  # as torch.optim.swa_utils has it
    assert_same(read({**state, "epoch": 3}), state)
    assert "left out what is no tensor: epoch" in caplog.text


def test_safetensors_whatever_its_name(tmp_path, state):
    for name in ("w.safetensors", "w.pt", "w"):
        save_file(state, tmp_path / name, {"format": "pt"})
        assert_same(read_weights(tmp_path / name).state, state)
    (tmp_path / "w").write_bytes((tmp_path / "w.pt").read_bytes()[:-9])
    with pytest.raises(UserError, match="w: is a safetensors file that is damaged or cut short"):
        read_weights(tmp_path / "w")


def test_old_formats(tmp_path, network, state):
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}  # torch < 0.4.1
    torch.save(old, tmp_path / "w.pth", _use_new_zipfile_serialization=False)  # torch < 1.6
    load_strictly(network, read_weights(tmp_path / "w.pth").state, "w.pth")


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_values_by_the_names_of_numpy_1_and_2(tmp_path, module):
    kinds = ("float64", "float32", "int64", "int32", "bool")
    values = {kind: np.dtype(kind).type(1) for kind in kinds} | {"curve": np.arange(3.0)}
    text = pickle.dumps(values, protocol=2)
    for name in ("numpy.core.multiarray", "numpy._core.multiarray"):
        text = text.replace(f"c{name}\n".encode(), f"c{module}\n".encode())
    (tmp_path / "n.pt").write_bytes(_legacy(text))
    read = read_torch_file(tmp_path / "n.pt")
    assert [read[kind] for kind in kinds] == [1] * 5 and read["curve"].tolist() == [0, 1, 2]


def _legacy(text):
    """A file as torch < 1.6 writes it, around a pickle without tensors."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, protocol=2) for part in head) + text + pickle.dumps([], protocol=2)


@pytest.mark.parametrize("spoil, told", [
    (lambda t: torch.full_like(t, float("nan")), "1 not finite: conv_mid.weight"),
    (lambda t: torch.full_like(t, float("inf")).half(), "1 not finite: conv_mid.weight"),
    (lambda t: t.to("meta"), "conv_mid.weight: no plain tensor"),
    (lambda t: t.to_sparse(), "conv_mid.weight: no plain tensor"),
    (lambda t: torch.complex(t, t), "conv_mid.weight: no plain tensor"),
    (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "conv_mid.weight: no plain tensor"),
])
def test_tensors_that_cannot_be_used_are_named(read, state, spoil, told):
    with pytest.raises(UserError, match=rf"w\.pt: .*{told}"):
        read({"params": {**state, "conv_mid.weight": spoil(state["conv_mid.weight"])}})


@pytest.mark.parametrize("content", [[1, 2], 3, None, {}, {"a": {}}, {0: torch.ones(1)}, {"state_dict": None},
                                     {"state_dict": {("a", 1): torch.ones(1)}}])
def test_what_holds_no_state_dict(read, content):
    with pytest.raises(UserError, match=r"w\.pt: holds no state dict"):
        read(content)


def test_whole_numbers_for_weights(network, state):
    with pytest.raises(UserError, match="1 of whole numbers: conv_mid.weight"):
        load_strictly(network, {**state, "conv_mid.weight": state["conv_mid.weight"].int()}, "w.pt")
    load_strictly(network, {name: tensor.to(torch.float16) if tensor.is_floating_point() else tensor
                            for name, tensor in state.items()}, "w.pt")


def test_another_version(read, state):
    with pytest.raises(UserError, match="was written by another version of this program .ddtb-checkpoint-9."):
        read({"format": "ddtb-checkpoint-9", "state_dict": state})


def test_arguments_beside_the_weights(read, state):
    assert_same(read({"state_dict": state, "args": argparse.Namespace(lr=1e-4)}), state)
