"""Files of --format qdq, in ONNX Runtime and OpenVINO; folded gates; packed weights; what int8 means to the bit."""

import logging
import re
import sys

import numpy as np
import onnx
import pytest
import torch
from integer_graph import evaluate
from onnx import TensorProto
from runtimes import convolutions, run_onnx, run_openvino

from quant import export
from quant.activation import gates_in_use, quantizers
from quant.deploy.lowering.fold import fold_gates
from quant.deploy.onnx_backend import OnnxNetwork
from quant.verify import Layers
from quant.weight import QuantConv2d
from utility import UserError

NAMES = ("edsr", "srresnet", "rdn")
RUNTIMES = {"onnx": run_onnx, "openvino": run_openvino}
# a network and a width each, so that every network meets odd and even widths and every width a network
CASES = [("edsr", 2), ("srresnet", 3), ("rdn", 4), ("edsr", 5), ("srresnet", 6), ("rdn", 2), ("edsr", 4)]


@torch.no_grad()
def expected(network, lr):
    return network(lr)


def error(found, wanted):
    """Root mean square error as a share of the picture's standard deviation."""
    return (found - wanted).square().mean().sqrt().item() / wanted.std().item()


@pytest.mark.parametrize(("name", "k_bits"), CASES)
def test_qdq_in_both_runtimes(small_network, smooth_image, name, k_bits):
    """Odd sizes, batches, gates; int8 convolutions by OpenVINO's own account."""
    network = small_network(name, 2 + k_bits % 3, k_bits)
    lr = smooth_image(11, 14, count=2)
    reads_floats = {"edsr": 2, "srresnet": 0, "rdn": 1}[name]  # by the method
    quantized = sum(isinstance(module, QuantConv2d) for module in network.modules())
    for rest, limit in (("fp32", 0.02), ("int8", 0.2)):
        made = export.export(network, rest=rest, images=list(lr.split(1)), format="qdq", gates="fold")
        assert not any(node.op_type in ("Scan", "QLinearConv", "MatMulInteger") for node in made.graph.node)
        wanted = expected(fold_gates(network, list(lr.split(1)))[0], lr)
        wanted = wanted.clamp(0, 255) if rest == "int8" else wanted
        for run in RUNTIMES.values():
            assert error(run(made, lr), wanted) < limit  # random weights; trained networks are judged by PSNR
        kinds = convolutions(made)
        if rest == "int8":
            assert kinds[False] == 0
        else:
            assert kinds[True] == quantized - reads_floats


@pytest.mark.parametrize("name", NAMES)
def test_gates_that_run_in_constant_scales(small_network, smooth_image, name):
    """Each image of a batch has its own bounds, and Q/DQ have constant scales all the same."""
    network = small_network(name, dynamic=1)
    lr = smooth_image(9, 12, count=2)
    made = export.export(network, format="qdq")
    for run in RUNTIMES.values():
        assert error(run(made, lr), expected(network, lr)) < 0.02
    made = export.export(network, rest="int8", images=list(lr.split(1)), format="qdq")
    constants = {one.name for one in made.graph.initializer}
    scales = [node.input[1] for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert scales and constants.issuperset(scales)
    for run in RUNTIMES.values():
        assert error(run(made, lr), expected(network, lr).clamp(0, 255)) < 0.25


@pytest.mark.parametrize("k_bits", [2, 3])
def test_levels_that_follow_levels_are_exact_in_openvino_too(small_network, smooth_image, tmp_path, k_bits):
    """RDN brings what was concatenated before from level to level; OpenVINO merges such pairs inexactly."""
    network, lr = small_network("rdn", k_bits=k_bits, dynamic=0), smooth_image(17, 19)
    path = tmp_path / "rdn.onnx"
    path.write_bytes(export.export(network, format="qdq").SerializeToString())
    for runtime in RUNTIMES:
        differences, _, _ = Layers(OnnxNetwork(path, runtime=runtime)).compare(network, lr)
        assert len(differences) == len(quantizers(network))
        assert all(share < 0.01 for _, share, _ in differences.values())  # ties, and what follows from them


@pytest.mark.parametrize("scale", [2, 4])  # x4 has a convolution behind a pixel shuffle
@pytest.mark.parametrize("name", NAMES)
def test_symmetric_has_no_zero_points(small_network, smooth_image, name, scale):
    network = small_network(name, scale, dynamic=0)
    lr = smooth_image(10, 13)
    made = export.export(network, rest="int8", images=[lr], format="qdq", symmetric=True)
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in made.graph.initializer}
    pairs = [node for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = [constants[node.input[2]] for node in pairs]
    assert not any(map(np.any, zeros)) and {zero.dtype.name for zero in zeros} == {"int8", "int32"}
    for run in RUNTIMES.values():
        assert error(run(made, lr), expected(network, lr).clamp(0, 255)) < 0.25
    assert error(run_openvino(made, lr), run_onnx(made, lr)) < 0.1
    # the first, EDSR has it twice: int8 has no room for an image's 256 levels
    assert convolutions(made)[False] == (2 if name == "edsr" else 1)


def test_a_relu_before_a_gate_is_one_without_zero_points_too(small_network, smooth_image):
    network, lr = small_network("rdn", dynamic=1), smooth_image(10, 13)
    plain, symmetric = (export.export(network, rest="int8", images=[lr], format="qdq", symmetric=symmetric)
                        for symmetric in (False, True))
    wanted = expected(network, lr).clamp(0, 255)
    assert error(run_onnx(symmetric, lr), wanted) < 2 * error(run_onnx(plain, lr), wanted)  # with half the levels


def test_symmetric_where_no_range_allows_it(small_network):
    network = small_network("edsr", dynamic=0)
    quantizer = quantizers(network)["body.0.act3"]
    with torch.no_grad():
        quantizer.alpha_lower.fill_(9.0)
        quantizer.alpha_upper.fill_(10.0)
    with pytest.raises(UserError, match="--symmetric: body.0.act3 has levels 135 to 150, which int8 does not hold"):
        export.export(network, format="qdq", symmetric=True)


@pytest.mark.parametrize("name", NAMES)
def test_folding_takes_the_mean_factors(small_network, smooth_image, name):
    network = small_network(name, dynamic=1)
    images = list(smooth_image(8, 9, count=3).split(1))
    folded, bounds = fold_gates(network, images)
    assert list(bounds) == list(gates_in_use(network)) != [] and not gates_in_use(folded)
    first = next(iter(bounds))
    quantizer, factors = network.get_submodule(first), []
    for image in images:
        expected(network, image)
        factors.append(2 * torch.sigmoid(quantizer.logits).flatten())
    upper, lower = torch.stack(factors).mean(0).tolist()
    wanted = quantizer.static_bounds()[0].item() * lower, quantizer.static_bounds()[1].item() * upper
    assert bounds[first] == pytest.approx(wanted, rel=1e-5)
    assert gates_in_use(network)


@pytest.fixture
def told(caplog):
    """Function that folds gates and gives what the log says of the cost."""
    def call(network, *images):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            fold_gates(network, list(images))
        return caplog.messages[-1]

    return call


def test_folding_one_image_changes_next_to_nothing(small_network, smooth_image, told):
    """The mean over one image is that image's own factors."""
    network = small_network("edsr", k_bits=5, dynamic=1)
    said = told(network, smooth_image(48, 48))
    found = re.fullmatch(r"\d+ gates folded, at a cost of (.*) dB: luma PSNR on 1 images of --calib, .*; "
                         r"the images as they are come out (.*) dB from the gated network's", said)
    assert abs(float(found[1])) < 5 and float(found[2]) > 45
    assert "luma PSNR on 1 images" in told(network, smooth_image(48, 48), smooth_image(47, 60))
    assert "at an unknown cost: no image of --calib has sides of 48 pixels" in told(network, smooth_image(47, 60))


@pytest.mark.parametrize(("k_bits", "kind"), [(2, "INT2"), (3, "INT4"), (4, "INT4"), (5, None)])
def test_packed_weights_are_the_same_network(small_network, smooth_image, k_bits, kind):
    if kind and not hasattr(TensorProto, kind):
        pytest.skip(f"this onnx does not know {kind}")
    network = small_network("edsr", k_bits=k_bits, n_feats=24, dynamic=0)
    lr = smooth_image(7, 8)
    for rest in ("fp32", "int8"):
        plain, packed = (export.export(network, rest=rest, images=[lr], weights=weights) for weights in
                         ("plain", "packed"))
        assert torch.equal(run_onnx(plain, lr), run_onnx(packed, lr))
        if kind is None:
            assert packed.opset_import[0].version == 18
            continue
        types = {one.data_type for one in packed.graph.initializer}
        assert getattr(TensorProto, kind) in types
        assert packed.opset_import[0].version == {"INT2": 25, "INT4": 21}[kind]
        assert len(packed.SerializeToString()) < len(plain.SerializeToString())


def test_packed_weights_in_openvino(small_network, smooth_image):
    network = small_network("edsr", k_bits=2, n_feats=24, dynamic=0)
    lr = smooth_image(7, 8)
    plain, packed = (export.export(network, rest="int8", images=[lr], format="qdq", weights=weights)
                     for weights in ("plain", "packed"))
    assert TensorProto.INT4 in {one.data_type for one in packed.graph.initializer}
    assert torch.equal(run_openvino(plain, lr), run_openvino(packed, lr))
    assert convolutions(packed) == convolutions(plain)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k_bits", [2, 3, 4, 6])
def test_int8_means_the_same_to_the_bit(small_network, smooth_image, name, k_bits):
    network = small_network(name, k_bits=k_bits, dynamic=0.5)
    lr = smooth_image(9, 11, count=2)
    made = export.export(network, rest="int8", images=list(lr.split(1)), weights="plain")
    assert np.array_equal(run_onnx(made, lr).numpy(), evaluate(made, lr.numpy()))


@pytest.mark.parametrize("symmetric", [False, True])
def test_qdq_of_one_colour_and_another_range(small_network, smooth_image, symmetric):
    network = small_network("edsr", n_colors=1, rgb_range=1, dynamic=0)
    lr = smooth_image(10, 11, channels=1) / 255
    made = export.export(network, rest="int8", images=[lr], format="qdq", symmetric=symmetric)
    for run in RUNTIMES.values():
        found = run(made, lr)
        torch.testing.assert_close((found * 255).round() / 255, found)
        assert (found - expected(network, lr).clamp(0, 1)).abs().mean() < 0.02


def test_openvino_refuses_the_other_format(small_network, tmp_path):
    onnx.save(export.export(small_network("edsr", dynamic=0)), tmp_path / "x.onnx")
    with pytest.raises(UserError, match="x.onnx: was exported with --format qlinear, .* export it with --format qdq"):
        OnnxNetwork(tmp_path / "x.onnx", runtime="openvino")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match="text.onnx"):
        OnnxNetwork(tmp_path / "text.onnx", runtime="openvino")


def test_openvino_that_is_missing_is_one_line(small_network, tmp_path, monkeypatch):
    onnx.save(export.export(small_network("edsr"), format="qdq"), tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="--backend openvino needs OpenVINO; pip install openvino"):
        OnnxNetwork(tmp_path / "x.onnx", runtime="openvino")


def test_openvino_backend(small_network, smooth_image, tmp_path):
    network = small_network("srresnet", dynamic=0)
    made = export.export(network, format="qdq")
    onnx.save(made, tmp_path / "x.onnx")
    loaded = OnnxNetwork(tmp_path / "x.onnx", threads=1, runtime="openvino")
    assert (loaded.name, loaded.scale, loaded.k_bits) == ("srresnet", 2, 4)
    lr = smooth_image(6, 7)
    assert torch.equal(loaded(lr), run_openvino(made, lr))


def test_the_oldest_operator_set_that_has_the_types(small_network):
    network = small_network("edsr", k_bits=4, n_feats=24)
    for opset in (18, 21):
        assert export.export(network, opset=opset).opset_import[0].version == opset
    assert export.export(network, weights="plain").opset_import[0].version == 18


@torch.no_grad()
def widened(network):
    """The network, its norms and biases as training makes them: no bias is a whole number of the sums' units."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            module.bias += 0.3 * torch.randn(module.bias.shape, generator=generator)
    return network


@pytest.mark.parametrize(("name", "k_bits"), [("edsr", 4), ("srresnet", 2), ("srresnet", 4), ("rdn", 4)])
def test_without_int8_biases_are_not_rounded(small_network, smooth_image, name, k_bits):
    network, lr = widened(small_network(name, 4, k_bits, dynamic=0)), smooth_image(20, 24)
    made = export.export(network, format="qdq")
    biases = {one.name: one for one in made.graph.initializer if one.data_type == TensorProto.INT32}
    exact = {node.input[0] for node in made.graph.node if node.op_type == "DequantizeLinear"} & biases.keys()
    units = export.export(network, format="qdq", rest="int8", images=[lr])
    assert len(exact) < sum(one.data_type == TensorProto.INT32 for one in units.graph.initializer)
    torch.testing.assert_close(run_onnx(made, lr), expected(network, lr), rtol=0, atol=0.01)


@pytest.mark.parametrize("format", ["qlinear", "qdq"])
@pytest.mark.parametrize("size", [0, 1e-9, 1e-7])
def test_channels_that_are_nearly_their_bias_alone(small_network, smooth_image, format, size):
    """As pruned channels and decayed norms are."""
    network, lr = small_network("edsr", 2, 4, dynamic=0), smooth_image(20, 24)
    with torch.no_grad():
        conv = network.tail[0][0]
        conv.weight[:4] *= size
        conv.bias[:4] = 90
        wanted = network(lr).clamp(0, 255)
    made = export.export(network, rest="int8", images=[lr], format=format)
    assert error(run_onnx(made, lr), wanted) < 0.2


def test_a_norm_that_has_decayed_to_its_bias(small_network, smooth_image):
    network, lr = small_network("srresnet", 2, 4, dynamic=0), smooth_image(20, 24)
    with torch.no_grad():
        norm = network.residual[0].in2
        norm.weight[4], norm.bias[4] = 1e-9, 40
    for format in ("qlinear", "qdq"):
        made = export.export(network, format=format)
        torch.testing.assert_close(run_onnx(made, lr), expected(network, lr), rtol=0, atol=0.01)
        made = export.export(network, format=format, rest="int8", images=[lr])
        assert error(run_onnx(made, lr), expected(network, lr).clamp(0, 255)) < 0.2


@pytest.mark.parametrize("format", ["qlinear", "qdq"])
def test_a_body_that_makes_zeros(small_network, smooth_image, format):
    network, lr = small_network("edsr", 2, 4, dynamic=0), smooth_image(20, 24)
    with torch.no_grad():
        for quantizer in (network.body[-2].act1, network.body[-2].act3):
            quantizer.alpha_upper.fill_(1e6)
            quantizer.alpha_lower.fill_(-0.9e6)
        wanted = network(lr).clamp(0, 255)
    made = export.export(network, rest="int8", images=[lr], format=format)
    assert error(run_onnx(made, lr), wanted) < 0.2
