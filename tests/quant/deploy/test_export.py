import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from data.images import read_image, write_png
from model import NETWORKS
from model.torch_file import save_torch_file
from quant import Phase, QuantConfig, export, quantize, set_phase, upscale, verify
from quant.activation import quantizers
from quant.deploy.lowering.image_model import OPSETS
from quant.deploy.onnx_backend import OnnxNetwork
from quant.deploy.onnx_file import all_graphs
from quant.deploy.packed import write_packed
from quant.weight import QuantConv2d
from utility import UserError, run_main

NAMES = ("edsr", "srresnet", "rdn")
INTEGER_KERNELS = ("QLinearConv", "MatMulInteger", "MatMulIntegerToFloat")


def session(exported, folder=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if folder is not None:
        options.optimized_model_filepath = str(folder / "optimized.onnx")
    return onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(exported, lr):
    return torch.from_numpy(session(exported).run(["sr"], {"lr": lr.numpy()})[0])


def graphs_of(exported):
    """The graph, and that of its Scan over the batch."""
    return [exported.graph, *(attribute.g for node in exported.graph.node for attribute in node.attribute
                              if attribute.name == "body")]


def torch_run(network, lr):
    with torch.no_grad():
        return network(lr)


def equal_share(first, second):
    return (first.round().clamp(0, 255) == second.round().clamp(0, 255)).float().mean().item()


def assert_same(network, exported, lr):
    """Every level equal: what remains is float32 rounding. One level wrong somewhere shows as 1e-2 and more."""
    expected, found = torch_run(network, lr), run(exported, lr)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * expected.abs().max().item() / 100)
    assert equal_share(found, expected) >= 0.999


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("scale", "k_bits"), [(2, 2), (3, 3), (4, 4), (2, 6), (2, 32)])
def test_fp32_is_what_torch_computes(small_network, smooth_image, name, scale, k_bits):
    network = small_network(name, scale, k_bits)
    assert_same(network, export.export(network), smooth_image(13, 10))


@pytest.mark.parametrize(("name", "skip_bits"), [("edsr", 7), ("edsr", 5), ("rdn", 7)])
def test_sums_of_their_own_bits(small_network, smooth_image, name, skip_bits):
    network = small_network(name, k_bits=2, skip_bits=skip_bits)
    assert_same(network, export.export(network), smooth_image(13, 10))


def test_sums_of_8_bits(small_network, smooth_image):
    """A byte has no constant zero point for 8 bits behind a gate: refused, never a picture that is nearly right."""
    network = small_network("edsr", k_bits=2, skip_bits=8, dynamic=0)
    assert_same(network, export.export(network), smooth_image(13, 10))
    network = small_network("edsr", k_bits=2, skip_bits=8, dynamic=1)
    with pytest.raises(UserError, match="--format qlinear: holds no 8-bit feature behind a gate"):
        export.export(network)
    assert_same(network, export.export(network, format="qdq"), smooth_image(13, 10))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dynamic", [0, 1])
def test_any_batch_and_size(small_network, smooth_image, name, dynamic):
    network = small_network(name, dynamic=dynamic)
    exported = export.export(network)
    assert_same(network, exported, smooth_image(9, 12, count=3))
    assert_same(network, exported, smooth_image(5, 4))


def test_opsets(small_network, smooth_image):
    network = small_network("edsr")
    for opset in (OPSETS.start, 21, OPSETS.stop - 1):
        assert_same(network, export.export(network, opset=opset), smooth_image(8, 8))
    for opset in (0, 12):
        with pytest.raises(UserError, match=f"--opset {opset}: 18 to "):
            export.export(network, opset=opset)


def test_gates_stay_out_of_the_static_phase(small_network, smooth_image):
    network = small_network("edsr", dynamic=1)
    dynamic = run(export.export(network), smooth_image(8, 8))
    set_phase(network, Phase.STATIC)
    assert_same(network, export.export(network), smooth_image(8, 8))
    assert not torch.equal(dynamic, run(export.export(network), smooth_image(8, 8)))


def test_bounds_above_zero_behind_a_gate(small_network, smooth_image):
    """Their levels are many steps from zero: at 6 bits up to 200."""
    network, lr = small_network("srresnet", k_bits=6, dynamic=1), smooth_image(9, 8)
    for name, quantizer in quantizers(network).items():
        if name.endswith("act2"):
            upper = quantizer.alpha_upper.item()
            quantizer.alpha_lower.data.fill_(0.68 * upper)
            quantizer.gate.expand.weight.data.zero_()  # beta 1
    assert_same(network, export.export(network), lr)


def test_bounds_that_have_met(small_network, smooth_image):
    network = small_network("edsr", dynamic=0)
    quantizer = quantizers(network)["body.0.act2"]
    with torch.no_grad():
        quantizer.alpha_upper.fill_(-1.0)
        quantizer.alpha_lower.fill_(1.0)
    with pytest.raises(UserError, match="body.0.act2: its bounds"):
        export.export(network)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rest", ["fp32", "int8"])
@pytest.mark.parametrize("dynamic", [0, 0.5])
def test_every_quantized_convolution_is_an_integer_kernel(small_network, smooth_image, tmp_path, name, rest, dynamic):
    network = small_network(name, 4, dynamic=dynamic)
    session(export.export(network, rest=rest, images=[smooth_image(12, 12)]), tmp_path)
    nodes = [node for graph in all_graphs(onnx.load(tmp_path / "optimized.onnx").graph) for node in graph.node]
    kernels = Counter(node.op_type for node in nodes)
    integer = sum(kernels[kind] for kind in INTEGER_KERNELS)
    convs = [module for name, module in network.named_modules()
             if isinstance(module, torch.nn.Conv2d) and ".gate." not in name]
    quantized = sum(isinstance(conv, QuantConv2d) for conv in convs)
    if rest == "fp32":
        reading_floats = {"edsr": 2, "rdn": 1, "srresnet": 0}[name]  # by the method: see the README
        assert integer >= quantized - reading_floats
    else:
        gates = sum(quantizer.dynamic for quantizer in quantizers(network).values())
        # EDSR's 2 mean shifts are folded into others, its head is made for blocks and sum apart; the 3 with PReLU
        # outside SRResNet's blocks are two each, and one gives its blocks the head's own channels; one more adds
        assert kernels["QLinearConv"] == len(convs) + {"edsr": -1, "rdn": 0, "srresnet": 4}[name] + 1
        assert sum(node.op_type in ("Conv", "FusedConv") for node in nodes) == 2 * gates  # the gates' own
        assert kernels["QuantizeLinear"] == kernels["DequantizeLinear"] == 1  # image in, image out


def test_convolutions_on_dense_features_have_constant_biases(small_network, smooth_image):
    """ONNX Runtime's fastest kernel takes no others."""
    network = small_network("rdn", dynamic=1)
    exported = export.export(network, rest="int8", images=[smooth_image(12, 12)], weights="plain")
    convs = [node for graph in all_graphs(exported.graph) for node in graph.node if node.op_type == "QLinearConv"]
    constants = {one.name: one.dims for graph in graphs_of(exported) for one in graph.initializer}
    biases = [node.input[8] in constants for node in convs
              if constants[node.input[3]][1] > network.settings["G0"] and ".gate/" not in node.name]
    assert sum(biases) >= len(biases) - 1 >= 4  # the one global fusion reads its gate's own grid


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("scale", "k_bits"), [(2, 2), (3, 3), (4, 4)])
@pytest.mark.parametrize("dynamic", [0, 0.5])
def test_int8_is_close(small_network, smooth_image, name, scale, k_bits, dynamic):
    network = small_network(name, scale, k_bits, dynamic)
    lr = smooth_image(24, 24, count=2)
    exported = export.export(network, rest="int8", images=list(lr.split(1)))
    expected, found = torch_run(network, lr).clamp(0, 255), run(exported, lr)
    assert torch.equal(found, found.round().clamp(0, 255))
    error = (found - expected).square().mean().sqrt().item()
    assert error < 0.12 * expected.std().item() + 0.3  # random weights; trained networks are judged by PSNR


def test_int8_of_one_colour_and_another_range(small_network, smooth_image):
    network = small_network("edsr", n_colors=1, rgb_range=1)
    lr = smooth_image(16, 16, channels=1) / 255
    exported = export.export(network, rest="int8", images=[lr])
    expected, found = torch_run(network, lr).clamp(0, 1), run(exported, lr)
    torch.testing.assert_close((found * 255).round() / 255, found)
    assert (found - expected).abs().mean() < 0.02


def test_borders_of_int8_see_the_mean_colour(small_network):
    """EDSR pads with zeros after the mean is subtracted; a flat image shows it where that is done otherwise."""
    network = small_network("edsr", k_bits=4, dynamic=0)
    lr = torch.full((1, 3, 12, 12), 250.0)
    exported = export.export(network, rest="int8", images=[lr])
    expected, found = torch_run(network, lr).clamp(0, 255), run(exported, lr)
    assert (found - expected)[..., :2].abs().mean() < 1.5 + (found - expected)[..., 8:12].abs().mean()


def test_metadata_and_backend(small_network, smooth_image, tmp_path):
    network = small_network("edsr", 3, rgb_range=255)
    onnx.save(export.export(network, source={"file": "x", "sha256": "0"}), tmp_path / "x.onnx")
    loaded = OnnxNetwork(tmp_path / "x.onnx", threads=1)
    assert (loaded.name, loaded.scale, loaded.k_bits, loaded.metadata.rest) == ("edsr", 3, 4, "fp32")
    lr = smooth_image(6, 7)
    torch.testing.assert_close(loaded.eval()(lr), torch_run(network, lr), rtol=0, atol=1e-3)


def test_backend_refuses_other_files(tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match="is no ONNX file that can be read"):
        OnnxNetwork(tmp_path / "text.onnx")
    with pytest.raises(UserError, match="no such file"):
        OnnxNetwork(tmp_path / "none.onnx")


def test_backend_refuses_a_runtime_that_is_wrong_for_the_file(small_network, smooth_image, tmp_path, monkeypatch):
    images = [smooth_image(6, 5)]
    for name, rest, dynamic in (("gated", "int8", 1), ("static", "int8", 0), ("float", "fp32", 1)):
        exported = export.export(small_network("edsr", dynamic=dynamic), rest=rest, images=images)
        onnx.save(exported, tmp_path / f"{name}.onnx")
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with pytest.raises(UserError, match="ONNX Runtime 1.23.2 computes .* wrongly; install 1.29 or newer"):
        OnnxNetwork(tmp_path / "gated.onnx")
    for name in ("static", "float"):
        assert OnnxNetwork(tmp_path / f"{name}.onnx").scale == 2


def test_standard_operators_mean_the_same(small_network, smooth_image):
    """ONNX's own reference implementation, which knows nothing of fused kernels, gives ONNX Runtime's results."""
    lr = smooth_image(6, 5)
    for name in ("edsr", "srresnet"):
        network = small_network(name)
        for rest in ("fp32", "int8"):
            exported = export.export(network, rest=rest, images=[lr], opset=21)  # older ones it can not read
            (sr,) = ReferenceEvaluator(exported).run(["sr"], {"lr": lr.numpy()})
            assert np.abs(sr - run(exported, lr).numpy()).max() < 1e-3, (name, rest)


def command(network, folder, *flags):
    """The command line that exports a network of SMALL's sizes."""
    save_torch_file(network.state_dict(), folder / "weights.pt")
    return ["--model", "EDSR", "--scale", "2", "--k_bits", "4", "--n_resblocks", "2", "--n_feats", "12", "--res_scale",
            "0.5", "--refine", str(folder / "weights.pt"), "--out", str(folder / "x.onnx"), *flags]


def test_command_line(small_network, smooth_image, tmp_path, capsys):
    network = small_network("edsr")
    assert run_main(lambda: export.main(command(network, tmp_path))) == 0
    assert "2 convolutions in integers, 6 in float" in capsys.readouterr().out
    write_png(tmp_path / "calib" / "a.png", smooth_image(20, 20)[0].permute(1, 2, 0).byte().numpy())
    flags = command(network, tmp_path, "--rest", "int8", "--calib", str(tmp_path / "calib"))
    assert run_main(lambda: export.main(flags)) == 0
    assert "10 convolutions in integers, 0 in float" in capsys.readouterr().out
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert metadata["rest"] == "int8" and metadata["source"]["file"] == "weights.pt"
    assert metadata["quant"] == {"bounds": "dual", "k_bits": metadata["k_bits"], "quantizer": "ddtb", "skip_bits": 0}
    write_png(tmp_path / "calib" / "b.png", np.zeros((1, 9, 3), np.uint8))
    assert run_main(lambda: export.main(flags)) == 1
    assert "b.png: is at most 2 pixels high or wide" in capsys.readouterr().err
    for name in ("a.png", "b.png"):
        write_png(tmp_path / "calib" / name, np.zeros((20, 20, 3), np.uint8))
    assert run_main(lambda: export.main(flags)) == 2
    assert f"--calib {tmp_path / 'calib'}: its images are black in the middle" in capsys.readouterr().err
    write_png(tmp_path / "calib" / "a.png", smooth_image(20, 20)[0].permute(1, 2, 0).byte().numpy())
    (tmp_path / "calib" / "b.png").write_text("no picture")
    before = (tmp_path / "x.onnx").read_bytes()
    assert run_main(lambda: export.main(flags)) == 1
    assert capsys.readouterr().err.endswith("b.png: not an image of a kind this program can read\n")
    assert (tmp_path / "x.onnx").read_bytes() == before


@pytest.mark.parametrize(("flags", "told"), [
    (["--rest", "int8"], "--rest int8: needs --calib"),
    (["--calib", "x"], "--calib x: --rest fp32 with --gates run needs no calibration"),
    (["--gates", "fold"], "--gates fold: needs --calib"),
    (["--gates", "fold", "--calib", "x", "--k_bits", "32"], "--gates fold: full-precision networks have no gates"),
    (["--symmetric"], "--symmetric: is for --format qdq"),
    (["--symmetric", "--format", "qdq", "--k_bits", "32"], "--symmetric: is for quantized weights and features"),
    (["--weights", "plain", "--k_bits", "32"], "--weights: is for quantized weights and features"),
    (["--rest", "int8", "--calib", "x", "--opset", "17"], "--opset 17: 18 to "),
    (["--weights", "packed", "--opset", "18"], "--weights packed: needs --opset 21"),
    (["--k_bits", "8"], "--k_bits 8: 2 to 6 bits"),
    (["--k_bits", "32", "--rest", "int8"], "--rest int8: is for quantized networks"),
    (["--out", "x.pt"], "--out x.pt: an ONNX file's name"),
])
def test_what_cannot_be_done_is_one_line(small_network, tmp_path, capsys, flags, told):
    assert run_main(lambda: export.main(command(small_network("edsr"), tmp_path, *flags))) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_a_network_without_gates_in_use_has_none_to_fold(small_network, smooth_image, tmp_path):
    write_png(tmp_path / "calib" / "a.png", smooth_image(20, 20)[0].permute(1, 2, 0).byte().numpy())
    flags = ["--calib", str(tmp_path / "calib"), "--rest", "int8"]
    network = small_network("edsr", dynamic=0)
    for gates in ("run", "fold"):
        assert export.main(command(network, tmp_path, *flags, "--gates", gates, "--force")) == 0
        made = onnx.load(tmp_path / "x.onnx")
        assert {one.key: one.value for one in made.metadata_props}["gates"] == '"none"'


def test_what_a_file_says_of_its_quantization_holds(small_network, tmp_path):
    exported = export.export(small_network("edsr", k_bits=3))
    onnx.save(exported, tmp_path / "x.onnx")
    network = OnnxNetwork(tmp_path / "x.onnx")
    assert network.check({"skip_bits": 3, "quantizer": "ddtb"}) is network
    with pytest.raises(UserError, match=r"was exported with --skip_bits 0 \(asked for: 8\)"):
        network.check({"skip_bits": 8})
    for quant in ({"k_bits": 99}, {"k_bits": 3, "quantizer": "none"}, [3]):
        for entry in exported.metadata_props:
            entry.value = json.dumps(quant) if entry.key == "quant" else entry.value
        onnx.save(exported, tmp_path / "x.onnx")
        with pytest.raises(UserError, match="x.onnx: its (quant|metadata)"):
            OnnxNetwork(tmp_path / "x.onnx")


def test_int8_needs_images(small_network):
    with pytest.raises(UserError, match="rest='int8': needs images"):
        export.export(small_network("edsr"), rest="int8")


def test_a_mean_shift_that_divides_is_not_exported(small_network):
    network = small_network("edsr")
    network.sub_mean.weight.data[0] /= 2
    for settings in ({}, {"rest": "int8", "images": [torch.rand(1, 3, 8, 8) * 255]}):
        with pytest.raises(UserError, match="divides by a standard deviation"):
            export.export(network, **settings)


def assert_all_is_read(graph):
    read = {name for node in graph.node for name in node.input} | {"sr"}
    assert all(read.intersection(node.output) for node in graph.node)
    assert all(constant.name in read for constant in graph.initializer)


def test_what_was_tried_and_not_used_is_not_in_the_file(small_network):
    """An exact half whose other half has no exact form."""
    for k_bits in (4, 5, 6):
        assert_all_is_read(export.export(small_network("srresnet", k_bits=k_bits, dynamic=0)).graph)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", export.FORMATS)
def test_nothing_in_a_file_is_unread(small_network, smooth_image, name, format):
    network = small_network(name, dynamic=0)
    for rest in ("fp32", "int8"):
        assert_all_is_read(export.export(network, rest=rest, images=[smooth_image(8, 8)], format=format).graph)


def test_exports_are_reproducible(small_network):
    network = small_network("rdn")
    first, second = (export.export(network).SerializeToString() for _ in range(2))
    assert np.array_equal(np.frombuffer(first, np.uint8), np.frombuffer(second, np.uint8))


@pytest.mark.parametrize(("settings", "told"), [
    ({"rest": "int4"}, "rest 'int4': choose fp32 or int8"), ({"format": "onnx"}, "format 'onnx': choose qlinear or"),
    ({"gates": "folded"}, "gates 'folded': choose run or fold"), ({"weights": "int8"}, "weights 'int8': choose packed"),
    ({"symmetric": True}, "symmetric: is for format 'qdq'"), ({"weights": "packed", "opset": 18}, "need opset 21"),
    *(({"rest": "int8", "images": images}, told) for images, told in (
        ([torch.zeros(2, 3, 8, 8)], r"images: .* \[1, 3, h, w\], not \[2, 3, 8, 8\]"),
        ([torch.zeros(1, 1, 8, 8)], r"not \[1, 1, 8, 8\]"), (torch.zeros(4, 3, 8, 8), r"not \[3, 8, 8\]"),
        ([np.zeros((1, 3, 8, 8))], "give a list of tensors"),
        ([torch.rand(1, 3, 8, 8)], "no value is above 1, and the network's range is 0..255")))])
def test_settings_that_can_not_be_are_value_errors(small_network, settings, told):
    with pytest.raises(ValueError, match=told):
        export.export(small_network("edsr"), **settings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_than_float32_are_a_value_error(small_network, dtype):
    with pytest.raises(ValueError, match=f"has tensors in {dtype}; call float"):
        export.export(small_network("edsr").to(dtype))


def test_a_network_that_does_not_quantize_yet_is_not_exported(small_network):
    network = small_network("edsr")
    with pytest.raises(ValueError, match="call eval"):
        export.export(network.train())
    set_phase(network.eval(), Phase.CALIBRATE)
    with pytest.raises(ValueError, match="calibrates"):
        export.export(network)
    fresh = quantize(NETWORKS["edsr"](scale=2, n_resblocks=1, n_feats=4), QuantConfig(4)).eval()
    with pytest.raises(ValueError, match="have no bounds yet"):
        export.export(fresh)


def test_weights_that_int8_does_not_hold_are_exact_where_a_float_convolution_reads_them(small_network, smooth_image):
    """Weights in a narrow range on one side of zero: their levels begin far from it."""
    network, lr = small_network("edsr", dynamic=0), smooth_image(12, 10)
    with torch.no_grad():
        network.body[0].body[0].weight.uniform_(0.05, 0.055)
    assert network.body[0].body[0].integer_weight()[0].max() > 127
    found = {weights: run(export.export(network, weights=weights), lr) for weights in ("packed", "plain")}
    assert torch.equal(found["packed"], found["plain"])
    assert equal_share(found["packed"], torch_run(network, lr)) > 0.99


@pytest.mark.parametrize("bounds", [(20.0, 21.0), (-21.0, -2.0)])
def test_gated_bounds_whose_levels_no_byte_holds_are_refused(small_network, smooth_image, bounds):
    network, lr = small_network("edsr", dynamic=1), smooth_image(12, 10)
    quantizer = network.body[0].act1
    with torch.no_grad():
        quantizer.alpha_lower[0], quantizer.alpha_upper[0] = bounds
    with pytest.raises(UserError, match="--format qlinear: no 8-bit integer holds the levels of a gated feature"):
        export.export(network)
    assert equal_share(run(export.export(network, format="qdq"), lr), torch_run(network, lr)) > 0.9


@pytest.mark.parametrize("settings", [{}, {"rest": "int8"}])
def test_the_readmes_program_makes_the_tools_picture(small_network, smooth_image, tmp_path, monkeypatch, settings):
    text = (Path(export.__file__).parent / "deploy" / "README.md").read_text()
    program = text.split("## In a program of your own")[1].split("```python\n")[1].split("```")[0]
    onnx.save(export.export(small_network("edsr", scale=4), images=[smooth_image(24, 24)], **settings),
              tmp_path / "e.onnx")
    write_png(tmp_path / "photo.png", smooth_image(13, 18)[0].permute(1, 2, 0).byte().numpy())
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert upscale.main(["--onnx", "e.onnx", "--input", "photo.png", "--output", "out"]) == 0
    (made,) = (tmp_path / "out").iterdir()
    assert np.array_equal(read_image(tmp_path / "photo_x4.png"), read_image(made))


def test_full_precision_has_one_form(tmp_path, small_network, capsys):
    """Its file can be compared too, without levels."""
    network = small_network("edsr", k_bits=32)
    save_torch_file({"format": "ddtb-checkpoint-1", "network": {"name": "edsr", **network.settings},
                     "state_dict": network.state_dict()}, tmp_path / "a.pt")
    command = ["--refine", str(tmp_path / "a.pt"), "--out", str(tmp_path / "a.onnx")]
    assert run_main(lambda: export.main([*command, "--format", "qdq"])) == 2
    assert "--format qdq: full precision has no integers" in capsys.readouterr().err
    assert run_main(lambda: export.main(command)) == 0
    checked = [str(tmp_path / "a.onnx"), "--against", str(tmp_path / "a.pt")]
    assert run_main(lambda: verify.main(checked)) == 0
    assert "full precision: there are no levels to compare\n" in capsys.readouterr().out
    with torch.no_grad():
        network.tail[1].bias += torch.tensor([0, 0, 9])
    save_torch_file({"format": "ddtb-checkpoint-1", "network": {"name": "edsr", **network.settings},
                     "state_dict": network.state_dict()}, tmp_path / "a.pt")
    assert run_main(lambda: verify.main(checked)) == 1
    assert "the images differ by 9 of 255: the file was made of another network" in capsys.readouterr().out


def test_weights_given_for_a_graph_are_told(tmp_path, small_network):
    network = small_network("edsr")
    save_torch_file(network.state_dict(), tmp_path / "a.pt")
    write_packed(network, tmp_path / "a.safetensors", source=tmp_path / "a.pt")
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(UserError, match=f"{name}: holds weights, no graph; export it"):
            OnnxNetwork(tmp_path / name)


@pytest.mark.parametrize("dynamic", [0, 0.5])
@pytest.mark.parametrize("format", ["qlinear", "qdq"])
def test_norms_with_a_weight_of_0(small_network, smooth_image, format, dynamic):
    """The channel is the norm's bias, as where training has pruned it."""
    network = small_network("srresnet", dynamic=dynamic)
    for module in network.residual[0].modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data[0] = 0
    lr = smooth_image(12, 12)
    exported = export.export(network, format=format)
    if format == "qlinear":
        assert_same(network, exported, lr)
    assert equal_share(run(exported, lr), torch_run(network, lr)) > 0.99
