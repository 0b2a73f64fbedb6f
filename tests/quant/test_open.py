"""One way from a path to a network, and what a file says is checked before anything is built of it."""

import copy
import json
import re
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from released import to_released
from safetensors.torch import load_file, save_file

import model
from data.images import write_png
from model.inference import super_resolve
from model.weights import FORMAT
from quant import Phase, QuantConfig, enlarge, export, is_quantized, open_network, quantize, set_phase
from quant import inspect as looking
from quant.activation import quantizers
from quant.cost import main as cost
from quant.deploy.onnx_backend import OnnxNetwork
from quant.deploy.packed import write_packed
from quant.export import main as exporting
from quant.methods import METHODS
from quant.open import load_weights
from quant.pack import main as packing
from utility import UserError, run_main

ROOT = Path(__file__).resolve().parents[2]


def checkpoint(network, **changes):
    """One of our checkpoints of a network, without the training's own state; a change of None takes a part out."""
    quant = {"quant": network.quant_config.to_dict(), "phase": "dynamic"} if is_quantized(network) else {"quant": None}
    whole = {"format": FORMAT, "network": {"name": model.name_of(network), **network.settings}, **quant,
             "state_dict": network.state_dict(), **changes}
    return {name: value for name, value in whole.items() if value is not None or name == "quant"}


@pytest.fixture
def saved(tmp_path):
    """Function that writes a value with torch.save and gives the path."""
    def save(value, name="w.pt"):
        torch.save(value, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def packed(small_network, tmp_path):
    """Function that packs a small network and gives the path."""
    def pack(network, name="w.safetensors"):
        source = tmp_path / "source.pt"
        torch.save(checkpoint(network), source)
        write_packed(network, tmp_path / name, source=source)
        return tmp_path / name

    return pack


def run(network, lr):
    with torch.no_grad():
        return network(lr)


# every kind of file -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["edsr", "srresnet", "rdn"])
def test_every_file_says_which_network_it_is(small_network, smooth_image, saved, packed, name):
    low, lr = small_network(name, rgb_range=1), smooth_image(9, 8) / 255
    flags = {"model": name.upper(), "k_bits": 4, **low.settings}
    for path, given in ((saved(checkpoint(low)), {}), (packed(low, "w.dat"), {}), (saved(low.state_dict(), "b"), flags),
                        (saved({"state_dict": to_released(low.state_dict())}, "r"), flags)):
        opened = open_network(path, **given)
        assert torch.equal(run(opened, lr), run(low, lr)), path
        source = opened.source
        assert (source.name, source.k_bits, source.phase, source.path) == (name, 4, Phase.DYNAMIC, path)
        assert source.settings == low.settings and opened.rgb_range == 1 and not opened.training
    full = small_network(name, k_bits=32)
    opened = open_network(saved(checkpoint(full)))
    assert torch.equal(run(opened, lr), run(full, lr)) and opened.source.k_bits == 32 and opened.source.quant is None


def test_run_folders(launch, experiments):
    assert launch("--save full") == 0
    assert open_network(experiments / "full").source.path.name == "model_best.pth.tar"
    (experiments / "full" / "model" / "model_best.pth.tar").unlink()
    assert open_network(experiments / "full").source.path.name == "checkpoint.pth.tar"
    with pytest.raises(UserError, match="no model/model_best.pth.tar or model/checkpoint.pth.tar in it"):
        open_network(experiments)


@pytest.mark.parametrize("settings, told", [({"n_feats": 72}, True), ({"n_feats": 72, "res_scale": 0.1}, False),
                                            ({}, False)])
def test_what_a_wide_edsr_multiplies_its_residuals_by_is_not_in_its_weights(saved, settings, told, caplog):
    network = model.NETWORKS["edsr"](scale=2, n_resblocks=1, **settings)
    open_network(saved(network.state_dict()), model="EDSR", n_resblocks=1, **settings)
    assert any("can't tell its --res_scale; 1 is taken" in message for message in caplog.messages) == told


def test_older_files_that_lack_a_range_are_of_255(small_network, saved):
    for name in ("rdn", "srresnet"):
        whole = checkpoint(small_network(name))
        del whole["network"]["rgb_range"]
        assert open_network(saved(whole)).rgb_range == 255


def test_a_flag_that_contradicts_the_file_is_refused_with_both(small_network, saved, packed):
    low = small_network("edsr")
    for path in (saved(checkpoint(low)), packed(low)):
        assert open_network(path, model="EDSR", scale=2, n_feats=12, k_bits=4, G0=3).scale == 2
        for flag, value, told in (("scale", 3, "--scale 2 (asked for: 3)"), ("k_bits", 2, "--k_bits 4 (asked for: 2)"),
                                  ("model", "rdn", "--model edsr (asked for: rdn)"),
                                  ("rgb_range", 1, "--rgb_range 255 (asked for: 1)"),
                                  ("quantizer", "pams", "--quantizer ddtb (asked for: pams)"),
                                  ("skip_bits", 8, "--skip_bits 0 (asked for: 8)")):
            with pytest.raises(UserError, match=re.escape(f"--refine {path}: was trained for {told}")):
                open_network(path, flag="--refine", **{flag: value})
        with pytest.raises(UserError, match=r"quantized network at --k_bits 4 \(asked for: --k_bits 32\)"):
            open_network(path, k_bits=32)
    with pytest.raises(TypeError, match="knows no scala"):
        open_network(path, scala=2)


def test_bare_state_dicts_need_the_flags(small_network, saved):
    path = saved(small_network("edsr").state_dict())
    for given in ({}, {"scale": 2}):
        with pytest.raises(UserError, match="add --model, --scale and --k_bits"):
            open_network(path, **given)
    with pytest.raises(UserError, match="add --scale and the sizes that are not the default"):
        open_network(path, model="EDSR")
    with pytest.raises(UserError, match="add --k_bits"):
        open_network(path, model="EDSR", scale=2, n_resblocks=2, n_feats=12)
    with pytest.raises(UserError, match="n_feats 0: give 1 or more"):
        open_network(path, model="EDSR", scale=2, n_feats=0, k_bits=4)


@pytest.mark.parametrize("n_colors", [3, 1])
def test_the_range_of_a_bare_edsr_is_told_by_its_mean(small_network, saved, n_colors):
    for made_for, other in ((1, 255), (255, 1), (2, 1)):
        full = small_network("edsr", k_bits=32, rgb_range=made_for, n_colors=n_colors)
        path = saved({"params": {name: tensor.half() for name, tensor in full.state_dict().items()}})
        given = {**full.settings, "model": "EDSR"}
        assert open_network(path, **given).rgb_range == made_for
        del given["rgb_range"]
        assert open_network(path, **given, defaults={"rgb_range": other}).rgb_range == made_for
        with pytest.raises(UserError, match=rf"was trained for --rgb_range {made_for}.*asked for: {other}"):
            open_network(path, **given, rgb_range=other)


def test_a_mean_that_is_not_div2ks_tells_nothing(small_network, saved):
    full = small_network("edsr", k_bits=32)
    state = full.state_dict() | {"sub_mean.bias": torch.tensor([-0.1, -9.0, 3.0])}
    assert open_network(saved(state), **{**full.settings, "model": "EDSR", "rgb_range": 7}).rgb_range == 7


@pytest.mark.parametrize("name", ["srresnet", "rdn"])
def test_a_range_that_a_bare_state_dict_does_not_tell_is_taken_with_a_warning(small_network, saved, caplog, name):
    full = small_network(name, k_bits=32)
    path, given = saved(full.state_dict()), {**full.settings, "model": name}
    assert open_network(path, **given).rgb_range == 255
    assert "warning" not in caplog.text
    assert open_network(path, **given | {"rgb_range": 1}).rgb_range == 1
    assert f"warning: {path}: can't tell its --rgb_range; 1 is taken, as given" in caplog.text


def test_the_shapes_of_a_bare_state_dict_tell_the_scale(small_network, saved):
    for scale in (2, 3, 4):
        full = small_network("edsr", scale=scale, k_bits=32)
        path = saved(full.state_dict())
        sizes = {name: value for name, value in full.settings.items() if name != "scale"}
        assert open_network(path, model="EDSR", **sizes, defaults={"scale": 2}).scale == scale
        with pytest.raises(UserError, match="does not fit this network"):
            open_network(path, model="EDSR", **sizes, scale=5 - scale if scale < 4 else 2)


@pytest.mark.parametrize("quantizer", [None, *METHODS])
@pytest.mark.parametrize("name", ["edsr", "srresnet", "rdn"])
def test_a_network_that_was_opened_is_as_one_that_was_built(small_network, saved, packed, name, quantizer):
    """Its tensors have memory of their own, the usual strides, and gradients where training has them."""
    built = small_network(name, k_bits=32)
    if quantizer is not None:
        quantize(built, QuantConfig(4, quantizer))
        for one in quantizers(built).values():
            one.mark_bounds_set()
    state = {key: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
             for key, tensor in built.state_dict().items()}
    opened = open_network(saved(checkpoint(built, state_dict=state)))
    for part in ("named_parameters", "named_buffers"):
        pairs = list(zip(getattr(opened, part)(), getattr(built, part)(), strict=True))
        assert [(key, type(one), one.dtype, one.stride(), one.requires_grad) for (key, one), _ in pairs] == \
            [(key, type(one), one.dtype, one.stride(), one.requires_grad) for _, (key, one) in pairs]
    tensors = list(opened.state_dict().values())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    if quantizer == "ddtb":
        opened = open_network(packed(built))
        assert not any(tensor.is_meta for tensor in (*opened.parameters(), *opened.buffers()))


def test_counters_that_old_files_lack_begin_at_zero(small_network, saved):
    state = {key: tensor for key, tensor in small_network("srresnet").state_dict().items() if "num_batches" not in key}
    opened = open_network(saved(state), model="SRResNet", k_bits=4, n_resblocks=2, n_feats=12)
    counters = [tensor for key, tensor in opened.state_dict().items() if key.endswith("num_batches_tracked")]
    assert counters and all(counter.item() == 0 for counter in counters)


def test_one_tensor_under_two_names_becomes_two(small_network, saved):
    state = small_network("edsr", k_bits=32).state_dict()
    state["body.1.body.0.weight"] = state["body.0.body.0.weight"]
    opened = open_network(saved(state), model="EDSR", n_resblocks=2, n_feats=12)
    first, second = (opened.body[place].body[0].weight for place in (0, 1))
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()


# programs and tools -------------------------------------------------------------------------------------------------

def test_tools_need_no_flags_that_the_file_knows(launch, experiments, tmp_path, capsys):
    assert launch("--save q --epochs 6 --rgb_range 1", quantized=True) == 0
    at = str(experiments / "q")
    packed, exported = str(tmp_path / "q.safetensors"), str(tmp_path / "q.onnx")
    assert run_main(lambda: packing(["--refine", at, "--out", packed])) == 0
    assert run_main(lambda: exporting(["--refine", packed, "--out", exported])) == 0
    assert run_main(lambda: cost(["--refine", packed])) == 0
    assert OnnxNetwork(exported).rgb_range == 1
    capsys.readouterr()
    assert run_main(lambda: packing(["--refine", at, "--out", packed, "--n_feats", "16"])) == 2
    assert "--n_feats 8 (asked for: 16)" in capsys.readouterr().err
    assert run_main(lambda: cost(["--model", "EDSR"])) == 2
    assert "--scale: needed" in capsys.readouterr().err


TEST = "--cpu --n_threads 0 --data_test Tiny --ext img --test_only"


def test_programs_take_from_the_file_what_is_not_given(launch, experiments, tiny_data, tmp_path, capsys):
    import main_limitrange_incremental as program

    assert launch("--save full --rgb_range 1") == 0
    assert launch(f"--save q --epochs 2 --pre_train {experiments / 'full'} --rgb_range 1", quantized=True) == 0
    rows = {}
    for name in ("full", "q"):
        flags = [*TEST.split(), "--dir_data", str(tiny_data), "--load", name]
        assert run_main(lambda flags=flags: program.main(flags)) == 0
        rows[name] = json.loads((experiments / name / "eval.txt").read_text().splitlines()[-1])
        assert "scale: 2" in (experiments / name / "config.txt").read_text().split("test_only: True")[0][-400:]
    assert [rows[name]["k_bits"] for name in ("full", "q")] == [32, 4] and rows["q"]["scale"] == 2
    capsys.readouterr()
    for flags in ("--load full --rgb_range 255", "--load q --scale 3", "--load q --k_bits 32",
                  "--load full --k_bits 4"):
        every = [*TEST.split(), "--dir_data", str(tiny_data), *flags.split()]
        assert run_main(lambda every=every: program.main(every)) == 2
        err = capsys.readouterr().err
        assert flags.split()[2] in err and flags.split()[3] in err and "model" in err, err


def test_inspect_sees_what_the_network_sees(small_network, saved, tmp_path):
    write_png(tmp_path / "lr" / "a.png", np.full((9, 8, 3), 255, np.uint8))
    low = small_network("srresnet", n_colors=1, rgb_range=1)
    seen = []
    low.conv_input.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    looking.record(low, looking.load_images(tmp_path / "lr", 2)[0])
    assert seen[0].shape == (1, 1, 9, 8) and 0.9 < seen[0].max() <= 1
    flags = ["--model", "SRResNet", "--scale", "2", "--k_bits", "4", "--n_colors", "1", "--n_feats", "12",
             "--n_resblocks", "2", "--images", str(tmp_path / "lr"), "--out", str(tmp_path / "out")]
    assert looking.main([str(saved(low.state_dict())), *flags]) == 0


def test_python_lines_of_the_readme(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    names = {"image": image}
    exec(code, names)
    assert names["large"].shape == (40, 48, 3) and names["large"].dtype == np.uint8
    assert names["student"].training and names["student"].quant_config.k_bits == 4


def test_enlarge(small_network):
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    for settings in ({}, {"rgb_range": 1}, {"n_colors": 1}):
        network = small_network("edsr", k_bits=32, **settings)
        large = enlarge(network, image)
        assert large.shape == (20, 24, 3) and large.dtype == np.uint8
        assert np.abs(large.astype(int) - enlarge(network, image, self_ensemble=True)).mean() < 60
        if network.n_colors == 1:
            assert np.array_equal(large[..., 0], large[..., 2])
    for wrong in (image[..., :2], image[..., 0], image.astype(float), image[:0], torch.zeros(3, 8, 8)):
        with pytest.raises(ValueError, match="uint8 .h, w, 3."):
            enlarge(network, wrong)
    with pytest.raises(ValueError, match="eval"):
        enlarge(network.train(), image)
    with pytest.raises(TypeError, match="exported files are run by quant.upscale.enlarge"):
        enlarge(object(), image)
    picture = Image.fromarray(image)
    network = small_network("edsr")
    assert np.array_equal(enlarge(network, picture), enlarge(network, image))
    assert np.array_equal(enlarge(torch.compile(network, backend="eager"), image), enlarge(network, image))
    for mode in ("P", "L", "RGBA", "YCbCr", "HSV", "LAB"):
        with pytest.raises(ValueError, match=f"not in {mode}; make a PIL one RGB"):
            enlarge(network, picture.convert(mode))


@pytest.mark.parametrize("name", ["edsr", "srresnet", "rdn"])
def test_an_image_is_enlarged_in_the_networks_own_precision(small_network, name):
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    network = small_network(name, k_bits=32)
    expected = enlarge(network, image).astype(int)
    assert np.abs(enlarge(network.double(), image) - expected).max() <= 1


def test_a_packed_network_that_refuses_to_train_stays_as_it_was(small_network, saved, tmp_path):
    write_packed(small_network("edsr"), tmp_path / "x.safetensors", source=saved({}))
    network = open_network(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no weights to train"):
        network.train()
    assert not any(module.training for module in network.modules())


def test_another_scale_than_the_networks_is_refused(small_network):
    with pytest.raises(ValueError, match="scale 4: the network's is 2"):
        super_resolve(small_network("edsr"), torch.zeros(1, 3, 16, 16), scale=4, chop_size=8)


def test_a_network_that_calibrates_gives_no_picture(small_network):
    network = small_network("edsr")
    set_phase(network, Phase.CALIBRATE)
    with pytest.raises(ValueError, match="the network calibrates"):
        enlarge(network, np.zeros((8, 8, 3), np.uint8))


def test_a_network_whose_bounds_nothing_has_set_gives_no_picture(small_network, saved):
    network = quantize(small_network("edsr", k_bits=32), QuantConfig(k_bits=4)).eval()
    told = "body.0.act1 and others have no bounds yet"
    with pytest.raises(ValueError, match=told):
        enlarge(network, np.zeros((8, 8, 3), np.uint8))
    path = saved(checkpoint(network))
    with pytest.raises(UserError, match=re.escape(f"--refine {path}: {told}; train it")):
        open_network(path, flag="--refine")
    load_weights(network, path, "--refine")  # training can begin with it


# metadata that does not fit -----------------------------------------------------------------------------------------

ODD_NETWORKS = [None, [1], "edsr", 3, {}, {"name": "vgg"}, {"name": ["edsr"]}, {"name": "edsr"}, {"scale": 2}]
ODD_SETTINGS = [{"new": 3}, {"scale": 7}, {"scale": "2"}, {"scale": 2.0}, {"scale": True}, {"n_feats": 10**400},
                {"n_feats": 2**40}, {"n_resblocks": 0}, {"n_resblocks": 900}, {"n_colors": 7}, {"rgb_range": 0},
                {"rgb_range": float("nan")}, {"res_scale": None}, {"res_scale": [1]}, {"n_feats": {"a": 1}}]
ODD_QUANTS = [[], [1], {}, {"k_bits": 99}, {"k_bits": "4"}, {"k_bits": 4, "quantizer": "nope"}, {"k_bits": 4.0},
              {"k_bits": 4, "quantizer": ["ddtb"]}, {"k_bits": 4, "new_option": 1}, {"k_bits": True}]
ODD_PHASES = [None, "sideways", 3, ["dynamic"], {}]


def changes(network):
    """(part, value) of everything odd that a file may say of a quantized network."""
    named = {"name": "edsr", **network.settings}
    yield from (("network", value) for value in ODD_NETWORKS)
    yield from (("network", named | value) for value in ODD_SETTINGS)
    yield from (("quant", value) for value in [None, *ODD_QUANTS])
    yield from (("phase", value) for value in ODD_PHASES)


def test_checkpoints_that_say_something_odd(small_network, saved):
    network = small_network("edsr")
    tensors = [("network", {"name": "edsr", **network.settings, "scale": torch.ones(2)}),
               ("network", {"name": torch.ones(2)}), ("network", {1: 2}), ("phase", torch.ones(2)),
               ("quant", {"k_bits": torch.tensor(4)})]
    for part, value in [*changes(network), *tensors]:
        path = saved({**checkpoint(network), part: value})
        with pytest.raises(UserError, match=r"w\.pt: .*(network|quant|phase)"):
            open_network(path)
            pytest.fail(f"{part} {value}")


def with_metadata(path, part, text):
    """The packed file with a part of its metadata replaced by a text, or taken out."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = {k: v for k, v in {**header["__metadata__"], part: text}.items() if v is not None}
    head = json.dumps(header).encode()
    changed = path.with_name("odd.safetensors")
    changed.write_bytes(struct.pack("<Q", len(head)) + head + raw[8 + length :])
    return changed


def test_packed_files_that_say_something_odd(small_network, packed):
    network = small_network("edsr")
    path = packed(network)
    cases = [(part, json.dumps(value)) for part, value in changes(network)]
    cases += [(part, text) for part in ("network", "quant", "phase", "packed")
              for text in (None, "{oops", "[" * 100000, '"\\ud800"', "9" * 9999)]
    for part, text in cases:
        with pytest.raises(UserError, match=r"odd\.safetensors: .*(network|quant|phase|packed)"):
            open_network(with_metadata(path, part, text))
            pytest.fail(f"{part} {text:.60}")
    for part, text in (("source", None), ("source", "[1]"), ("newer", "1")):
        open_network(with_metadata(path, part, text))


def test_the_state_dict_of_a_packed_network_is_that_network(small_network, smooth_image, saved, packed):
    """Its weights lie on levels; taken for weights to quantize they would give other levels."""
    first = open_network(packed(small_network("edsr", dynamic=2)))
    flags = {"model": "EDSR", "k_bits": 4, **first.settings}
    again = open_network(saved(first.state_dict()), **flags)
    assert torch.equal(run(again, smooth_image(9, 8)), run(first, smooth_image(9, 8)))
    load_weights(trained := small_network("edsr"), saved(first.state_dict()), "--refine")
    assert not any(name.endswith(".fixed_scale") for name in trained.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*fixed_scale"):  # or its weights would not be quantized
        first.load_state_dict(small_network("edsr", dynamic=2).state_dict())
    name = next(name for name in first.state_dict() if name.endswith(".fixed_scale"))
    for odd in ({name: torch.zeros(1)}, {name: torch.ones(2)}, {name: torch.ones(1, dtype=torch.int64)},
                {"tail.0.fixed_scale": torch.ones(1)}, {"nowhere.fixed_scale": torch.ones(1)}):
        with pytest.raises(UserError, match="odd.pt: the scales of its packed weights can't be used"):
            open_network(saved({**first.state_dict(), **odd}, "odd.pt"), **flags)


def test_packed_weights_that_are_odd(small_network, packed):
    path = packed(small_network("edsr"))
    record = json.loads(metadata_of(path)["packed"])
    first = next(iter(record))
    for change in ({"offset": 10**400}, {"offset": float("nan")}, {"offset": 2**20}, {"bits": 0}, {"bits": 3},
                   {"bits": 2**40}, {"shape": [1]}, {"shape": "x"}, {"shape": [-1, 12, 3, 3]}, {"offset": None},
                   {"new": 1}):
        odd = {**record, first: {**record[first], **change}}
        with pytest.raises(UserError, match=r"odd\.safetensors: .*packed|odd\.safetensors: .*weight"):
            open_network(with_metadata(path, "packed", json.dumps(odd)))
            pytest.fail(f"{change}")
    for odd in ({}, {**record, "more.weight": record[first]}, {k: v for k, v in record.items() if k != first}):
        with pytest.raises(UserError, match="does not list the quantized weights"):
            open_network(with_metadata(path, "packed", json.dumps(odd)))


def metadata_of(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length])["__metadata__"]


@pytest.mark.parametrize("leaf, value", [("alpha_upper", "nan"), ("weight_scale", "nan"), ("weight_scale", "0"),
                                         ("weight_scale", "-1"), ("head.0.weight", "inf"), ("weight_step", "nan"),
                                         ("running_var", "-inf"), ("weight_step", "-1"),
                                         ("body.0.weight_scale", "1.2e-38")])  # its weights would be infinite
def test_packed_tensors_that_are_odd(small_network, packed, leaf, value):
    path = packed(small_network("edsr"))
    tensors, metadata = load_file(path), metadata_of(path)
    key = next(key for key in tensors if key.endswith(leaf))
    save_file(tensors | {key: torch.full_like(tensors[key], float(value))}, path, metadata)
    name = key.removesuffix("_scale").removesuffix("_step")
    with pytest.raises(UserError, match=rf"w\.safetensors: .*{re.escape(name)}"):
        open_network(path)


def test_a_flag_that_the_network_has_no_use_for_is_told(small_network, packed, tmp_path, caplog):
    caplog.set_level("INFO")
    open_network(packed(small_network("edsr")), G0=32, bounds="dual")
    assert "w.safetensors: --G0 32 has no effect on this network" in caplog.text
    onnx.save(export.export(small_network("edsr")), tmp_path / "w.onnx")
    OnnxNetwork(tmp_path / "w.onnx", threads=1).check({"scale": 2, "RDNconfig": "A"})
    assert "w.onnx: --RDNconfig A has no effect on this network" in caplog.text


def test_a_live_gate_cannot_be_left_out(small_network, packed):
    network = small_network("edsr", dynamic=1)
    path = packed(network)
    tensors, metadata = load_file(path), metadata_of(path)
    name = f"{next(iter(quantizers(network)))}.gate.norm.weight"
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, path, metadata)
    with pytest.raises(UserError, match=f"1 missing: {name}"):
        open_network(path)


def test_exported_files_that_are_odd(small_network, tmp_path):
    network = small_network("edsr")
    good = export.export(network)
    named = {"name": "edsr", **network.settings}

    def told(exported, match):
        onnx.save(exported, tmp_path / "w.onnx")
        with pytest.raises(UserError, match=rf"w\.onnx: .*{match}"):
            OnnxNetwork(tmp_path / "w.onnx", threads=1)
            pytest.fail(match)

    def with_property(key, text):
        changed = copy.deepcopy(good)
        for one in [one for one in changed.metadata_props if one.key == key]:
            if text is None:
                changed.metadata_props.remove(one)
            else:
                one.value = text
        return changed

    for text in (None, "{oops", "[" * 100000, *(json.dumps(value) for value in ODD_NETWORKS),
                 *(json.dumps(named | value) for value in ODD_SETTINGS if value != {"n_resblocks": 900}),
                 json.dumps(named | {"scale": "2/../../elsewhere"}), json.dumps(named | {"scale": 3}),
                 json.dumps(named | {"n_colors": 1})):
        told(with_property("network", text), "network|says|can't run it")
    for key, text in (("k_bits", None), ("k_bits", "9"), ("k_bits", "[4]"), ("rest", "3"), ("rgb_range", "0")):
        told(with_property(key, text), key)
    spoilt = copy.deepcopy(good)
    graphs = [spoilt.graph, *(one.g for node in spoilt.graph.node for one in node.attribute if one.name == "body")]
    weight = next(one for graph in graphs for one in graph.initializer
                  if one.data_type == TensorProto.FLOAT and len(one.dims) == 4)
    weight.CopyFrom(helper.make_tensor(weight.name, TensorProto.FLOAT, weight.dims,
                                       np.full(weight.dims, np.nan).ravel().tolist()))
    told(spoilt, f"{re.escape(weight.name)} is not finite")
    weight.ClearField("raw_data")
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="elsewhere.bin")
    told(spoilt, f"{re.escape(weight.name)} lies in another file")
    for node, names in ((helper.make_node("Identity", ["x"], ["y"]), "xy"),
                        (helper.make_node("Identity", ["lr"], ["sr"]), ("lr", "sr"))):
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3, None, None]) for name in names]
        other = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), ir_version=8,
                                  opset_imports=[helper.make_opsetid("", 17)])
        other.metadata_props.extend(good.metadata_props)
        told(other, "its graph|not x2")


def test_an_exported_file_where_a_checkpoint_is_expected(small_network, tmp_path):
    onnx.save(export.export(small_network("edsr")), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt: is an exported network; test it with --backend onnx"):
        open_network(tmp_path / "w.pt")
    assert OnnxNetwork(tmp_path / "w.pt", threads=1)(torch.zeros(1, 3, 5, 6)).shape == (1, 3, 10, 12)


def test_values_of_another_type_are_told_as_what_they_are(small_network, saved):
    network = small_network("edsr")
    for size in (-5, 0, 1.5):
        with pytest.raises(ValueError, match=f"chop_size {size}: give a whole number"):
            enlarge(network, np.zeros((8, 8, 3), np.uint8), chop_size=size)
    with pytest.raises(ValueError, match="k_bits 4.0: 2 to 8"):
        QuantConfig(4.0)
    with pytest.raises(UserError, match=r"was trained for --k_bits 4 \(asked for: '4'\)"):
        open_network(saved(checkpoint(network)), k_bits="4")
