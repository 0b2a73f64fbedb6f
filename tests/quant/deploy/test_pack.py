import copy
import json

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.utils import prune

import model
from model import NETWORKS
from model.torch_file import save_torch_file
from quant import Phase, QuantConfig, export, open_network, pack, quantize, set_phase
from quant.activation import quantizers
from quant.deploy.bitpack import pack_bits, unpack_bits
from quant.deploy.onnx_file import all_graphs
from quant.deploy.packed import write_packed
from quant.open import load_weights
from quant.phase import phase_of
from quant.weight import QuantConv2d
from utility import UserError, run_main

NAMES = ("edsr", "srresnet", "rdn")


@pytest.mark.parametrize("bits", range(1, 10))
def test_bits_come_back(bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, (3, 5, 7))
    packed = pack_bits(values, bits)
    assert packed.dtype == np.uint8 and packed.size == -(-values.size * bits // 8)
    assert np.array_equal(unpack_bits(packed, bits, values.shape), values)


def test_four_bits_are_two_a_byte_low_first():
    assert pack_bits([1, 2, 15], 4).tolist() == [0x21, 0x0F]


def test_bits_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit 2 bits"):
        pack_bits([0, 4], 2)
    with pytest.raises(ValueError, match="can't hold 3 values"):
        unpack_bits(np.zeros(1, np.uint8), 4, (3,))


@pytest.fixture
def packed(tmp_path):
    """Function that packs a network and gives the file."""
    def write(network, rest="fp32"):
        save_torch_file(network.state_dict(), tmp_path / "source.pt")
        write_packed(network, tmp_path / "x.safetensors", source=tmp_path / "source.pt", rest=rest)
        return tmp_path / "x.safetensors"

    return write


def load_packed(network, path):
    """The network in a packed file, which has to be as this one."""
    return open_network(path, model=model.name_of(network), **network.settings, **network.quant_config.trained())


def read_packed(path):
    """(tensors as they lie in the file, metadata)."""
    with safe_open(path, "pt") as file:
        return load_file(path), {key: json.loads(value) for key, value in file.metadata().items()}


@torch.no_grad()
def outputs(network, lr):
    return network.eval()(lr)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("scale", "k_bits"), [(2, 2), (3, 3), (4, 4), (2, 8)])
def test_output_is_the_checkpoints_to_the_bit(small_network, smooth_image, packed, name, scale, k_bits):
    network = small_network(name, scale, k_bits)
    loaded = load_packed(network, packed(network))
    lr = smooth_image(12, 9, count=2)
    assert torch.equal(outputs(loaded, lr), outputs(network, lr))


@pytest.mark.parametrize("name", ["edsr", "rdn"])
def test_sums_of_their_own_bits(small_network, smooth_image, packed, name):
    network = small_network(name, k_bits=2, skip_bits=7)
    lr = smooth_image(12, 9)
    loaded = load_packed(network, packed(network))
    assert torch.equal(outputs(loaded, lr), outputs(network, lr))
    published = small_network(name, k_bits=2)
    with pytest.raises(UserError, match="was trained for --skip_bits 7"):
        load_packed(published, packed(network))


def test_phase_is_kept(small_network, smooth_image, packed):
    network = small_network("edsr", dynamic=1)
    set_phase(network, Phase.STATIC)
    loaded = load_packed(network, packed(network))
    assert torch.equal(outputs(loaded, smooth_image(8, 8)), outputs(network, smooth_image(8, 8)))
    assert not any(".gate." in key for key in read_packed(packed(network))[0])


def test_packing_again_and_exporting_give_the_same(small_network, packed, tmp_path):
    network = small_network("rdn")
    path = packed(network)
    first = load_file(path)
    loaded = load_packed(network, path)
    second = load_file(packed(loaded))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert export.export(loaded).SerializeToString() == export.export(network).SerializeToString()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k_bits", range(2, 7))
def test_checkpoint_packed_and_exported_have_the_same_integers(small_network, smooth_image, packed, name, k_bits):
    """Bounds taken again of weights that lie on their levels are off by a last bit, which decides rounding ties."""
    network = small_network(name, k_bits=k_bits)
    loaded = load_packed(network, packed(network))
    for first, second in zip(network.modules(), loaded.modules(), strict=True):
        if isinstance(first, QuantConv2d):
            assert all(map(torch.equal, first.integer_weight(), second.integer_weight()))
            levels, scale = second.integer_weight()
            assert torch.equal(levels / scale, first.quantized_weight())
    lr = smooth_image(12, 9)
    for rest in ("fp32", "int8"):
        exported = [export.export(one, rest=rest, images=[lr]).SerializeToString() for one in (network, loaded)]
        assert exported[0] == exported[1]
    convs = {name: module for name, module in loaded.named_modules() if isinstance(module, QuantConv2d)}
    for node, weight in integer_kernels(export.export(loaded)):
        levels = convs[node].integer_weight()[0].numpy().astype(int)
        factor = round(np.abs(weight).max() / np.abs(levels).max())  # int8 has room for a finer grid
        # a norm behind the convolution turns the signs of some channels
        assert np.array_equal(np.sort(np.abs(weight), None), np.sort(np.abs(levels * factor), None))


def integer_kernels(exported):
    """(module, int8 weight) of every integer convolution with constant weights, gates' means left out."""
    constants = {one.name: numpy_helper.to_array(one) for one in constants_of(exported)}
    for node in (node for graph in all_graphs(exported.graph) for node in graph.node):
        position = {"QLinearConv": 3, "MatMulInteger": 1}.get(node.op_type)
        if position and node.input[position] in constants:
            yield node.name.rsplit("/", 1)[0], constants[node.input[position]]


def constants_of(exported):
    """The initializers of a model, those of its Scan included."""
    bodies = [attribute.g for node in exported.graph.node for attribute in node.attribute if attribute.name == "body"]
    return [one for graph in (exported.graph, *bodies) for one in graph.initializer]


def test_symmetric_bounds_take_a_bit_more(small_network, smooth_image, packed):
    """Weights with -u..u to the bit reach one level more than 2**k, which packing must not wrap."""
    network = small_network("rdn")
    weight = network.RDBs[0].LFF.weight
    with torch.no_grad():
        weight.clamp_(-0.1, 0.1).view(-1)[:2] = torch.tensor([-0.1, 0.1])
    loaded = load_packed(network, packed(network))
    assert torch.equal(outputs(loaded, smooth_image(8, 8)), outputs(network, smooth_image(8, 8)))


def test_only_live_gates_and_nothing_in_vain(small_network, packed):
    network = small_network("rdn", dynamic=0.5)
    state, metadata = read_packed(packed(network))
    live = {name for name, quantizer in quantizers(network).items() if quantizer.dynamic}
    assert {key.split(".gate.")[0] for key in state if ".gate." in key} == live
    assert not any(key.endswith(("max_val", "min_val")) for key in state)
    assert metadata["packed"]["RDBs.0.LFF.weight"]["bits"] == 4


def test_size(small_network, packed):
    network = small_network("edsr", k_bits=2, n_feats=64)
    conv = network.body[0].body[0].weight
    assert load_file(packed(network))["body.0.body.0.weight"].nbytes == conv.numel() * 2 // 8
    exact, half = (packed(network, rest=rest).stat().st_size for rest in ("fp32", "fp16"))
    assert half < 0.6 * exact


def test_half_precision_rest(small_network, smooth_image, packed):
    network = small_network("srresnet")
    loaded = load_packed(network, packed(network, rest="fp16"))
    expected, found = outputs(network, smooth_image(8, 8)), outputs(loaded, smooth_image(8, 8))
    assert 0 < (found - expected).abs().mean() < 0.05 * expected.std()
    with torch.no_grad():
        network.conv_input.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(UserError, match="--rest fp16: conv_input.weight reaches 1e\\+06"):
        packed(network, rest="fp16")


def test_an_opened_packed_network_cannot_be_trained(small_network, packed):
    with pytest.raises(UserError, match="no weights to train; give the file to --refine"):
        load_packed(small_network("edsr"), packed(small_network("edsr"))).train()


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_file_is_trained_on_from_its_levels(small_network, packed, name, smooth_image):
    first = small_network(name, dynamic=2)
    network = copy.deepcopy(first)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    opened = load_packed(first, path := packed(first))
    assert load_weights(network, path, "--refine") == {}
    kept = {key: tensor for key, tensor in opened.state_dict().items() if not key.endswith("fixed_scale")}
    assert kept.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in kept.items())
    network.train()(smooth_image(9, 8)).sum().backward()
    trained = [module.weight for module in network.modules() if isinstance(module, QuantConv2d)]
    before = [weight.detach().clone() for weight in trained]
    torch.optim.SGD(trained, lr=1.0).step()
    assert not any(torch.equal(weight, old) for weight, old in zip(trained, before, strict=True))


def test_a_file_packed_before_its_gates_were_applied_is_not_trained_on(small_network, packed):
    network = small_network("edsr", dynamic=2)
    set_phase(network, Phase.STATIC)
    with pytest.raises(UserError, match="--refine .*x.safetensors: was packed before its gates were applied"):
        load_weights(small_network("edsr"), packed(network), "--refine")
    save_torch_file(load_packed(network, packed(network)).state_dict(), path := packed(network).with_name("bare.pt"))
    with pytest.raises(UserError, match="--refine .*bare.pt: was packed before its gates were applied"):
        load_weights(small_network("edsr"), path, "--refine")  # which is taken for a finished one
    without = small_network("edsr", dynamic=0)
    set_phase(without, Phase.STATIC)
    load_weights(trained := small_network("edsr"), packed(without), "--refine")
    assert phase_of(trained) is Phase.STATIC


def test_the_wrong_file(small_network, packed, tmp_path):
    network = small_network("edsr")
    path = packed(network)
    with pytest.raises(UserError, match=r"was trained for --k_bits 4 \(asked for: 2\)"):
        load_packed(small_network("edsr", k_bits=2), path)
    with pytest.raises(UserError, match="was trained for"):
        load_packed(small_network("edsr", scale=3), path)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(UserError, match="text.safetensors: is not a checkpoint"):
        load_packed(network, tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is a full-precision network"):
        load_packed(network, tmp_path / "other.safetensors")


def test_a_damaged_file(small_network, packed, tmp_path):
    network = small_network("edsr")
    path = packed(network)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="x.safetensors: is a safetensors file that is damaged"):
        load_packed(copy.deepcopy(network), path)
    path.write_bytes(whole.replace(b"head.0.bias", b"head.0.bia5"))
    with pytest.raises(UserError, match="1 missing: head.0.bias; 1 unexpected: head.0.bia5"):
        load_packed(copy.deepcopy(network), path)


def test_command_line(small_network, tmp_path, capsys):
    network = small_network("edsr")
    save_torch_file(network.state_dict(), tmp_path / "weights.pt")
    flags = ["--model", "EDSR", "--scale", "2", "--n_resblocks", "2", "--n_feats", "12", "--res_scale", "0.5",
             "--refine", str(tmp_path / "weights.pt"), "--out"]
    assert run_main(lambda: pack.main(["--k_bits", "4", *flags, str(tmp_path / "x.safetensors")])) == 0
    assert "times smaller than float32" in capsys.readouterr().out
    _, metadata = read_packed(tmp_path / "x.safetensors")
    assert metadata["source"]["file"] == "weights.pt" and len(metadata["source"]["sha256"]) == 64
    for wrong in (["--k_bits", "32", *flags, "x.safetensors"], ["--k_bits", "4", *flags, "x.pt"]):
        assert run_main(lambda wrong=wrong: pack.main(wrong)) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_what_no_tool_could_open_is_not_written(small_network, packed, tmp_path):
    network = small_network("edsr")
    with pytest.raises(ValueError, match="rest 'bf16': choose fp32 or fp16"):
        packed(network, rest="bf16")
    with torch.no_grad():
        network.body[0].body[0].weight.fill_(0.05)
    with pytest.raises(UserError, match=r"body.0.body.0.weight: .* nearly all its weights are the same"):
        packed(network)
    network = quantize(model.NETWORKS["edsr"](scale=2, n_resblocks=1, n_feats=4), QuantConfig(4)).eval()
    with pytest.raises(UserError, match="have no bounds yet"):
        packed(network)
    assert not (tmp_path / "x.safetensors").exists()


class Widened(NETWORKS["edsr"]):
    pass


def other_class(network):
    network.__class__ = Widened


def calibrating(network):
    set_phase(network, Phase.CALIBRATE)


@pytest.mark.parametrize("change, message", [
    (other_class, "Widened is no registered network"), (calibrating, "the network calibrates"),
    (lambda network: setattr(network.body[0], "res_scale", 0.7), "body.0 was changed by hand"),
    (lambda network: setattr(network.body[0].act1, "k_bits", 8), "body.0.act1 was changed by hand"),
    (lambda network: setattr(network.body[0].body, "1", torch.nn.LeakyReLU()), "body.0.body.1 was changed by hand"),
    (lambda network: setattr(network.head[0], "padding_mode", "reflect"), "head.0 was changed by hand"),
    (lambda network: setattr(network.body[0].body[2], "dilation", (2, 2)), "body.0.body.2 was changed by hand"),
    (lambda network: network.body[0].register_forward_hook(lambda *args: args[2] / 2), "body.0 has hooks"),
    (lambda network: prune.l1_unstructured(network.body[0].body[0], "weight", 0.5), "body.0.body.0 has hooks"),
    (lambda network: setattr(network.head[0], "bias", None), "head.0.bias was added, removed or given another shape"),
    (lambda network: network.register_buffer("step", torch.zeros(1)), "step was added")])
def test_what_a_file_would_not_hold_is_neither_packed_nor_exported(small_network, packed, tmp_path, change, message):
    network = small_network("edsr", n_resblocks=1)
    change(network)
    with pytest.raises(UserError, match=message):
        packed(network)
    assert not (tmp_path / "x.safetensors").exists()
    with pytest.raises((UserError, ValueError), match="can be trained, tested|calibrates|" + message):
        export.export(network)


def test_the_network_of_a_packed_file_takes_no_other_weights(small_network, packed):
    network = small_network("edsr", n_resblocks=1)
    opened = open_network(packed(network))
    opened.load_state_dict(copy.deepcopy(opened.state_dict()))
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="a packed file's network takes no other weights"):
            opened.load_state_dict(network.state_dict(), strict=strict)


def test_full_precision_is_not_packed(small_network, packed):
    with pytest.raises(UserError, match="only quantized ones are packed"):
        packed(small_network("edsr", k_bits=32))
