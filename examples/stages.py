"""A stage of `make networks`: the command lines that make one network, the file they give, its entry in models.json."""

import json
import shutil
import sys
from dataclasses import asdict, replace

from data.images import image_files
from examples import ROOT
from examples.budgets import (
    AGAIN,
    DECAY,
    GAMMA,
    HELD_OUT,
    LOW_EPOCH,
    RATIOS,
    VALIDATED,
    FullPrecision,
)
from examples.page import write_page
from examples.results import SETS, available, scores
from examples.runs import continued, folder_of
from model.torch_file import read_torch_file, save_torch_file
from option import EXPERIMENT_ROOT
from quant.deploy.packed import file_hash
from quant.open import open_network
from utility import UserError, atomic_path, lock

PRETRAINED = ROOT / "pretrained"
RUNS = "networks"  # below the experiments' folder


class DataFlags:
    """The flags that name data; validation images are those kept from training, no test set chooses anything."""

    def __init__(self, dir_data):
        hr = dir_data / "DIV2K" / "DIV2K_train_HR"
        if not hr.is_dir():
            raise UserError(f"--dir_data {dir_data}: no {hr}; add --photos FOLDER_OF_FOLDERS to make it")
        self.dir_data = dir_data
        self.images = len(image_files(hr))

    def training(self, network):
        """Of a run of a network, as edsr_x4."""
        train = self.images - sum(HELD_OUT.values())
        return ["--dir_data", self.dir_data, "--data_range", f"1-{train}/{train + 1}-{train + VALIDATED[network]}",
                "--data_test", "DIV2K"]


def commands(stage, data, device):
    """The command lines of a stage, made one by one: each looks at what is there when its turn comes.

    Raises UserError where the network that it starts from is not there.
    """
    start = stage.start if isinstance(stage, FullPrecision) else stage.network
    if start and not made_again_from(stage) and not (file := full_precision_file(start)).is_file():
        raise UserError(f"{file}: missing, and {stage.name} starts from it; --only {start} makes it")
    again_from = file_hash(quantized) if (quantized := made_again_from(stage)) else ""
    sets = available(data.dir_data, stage.scale)
    programs = full_commands(stage, data, sets) if isinstance(stage, FullPrecision) else low_commands(stage, data, sets)
    for program, *flags in programs:
        if program.endswith(".py"):
            yield [sys.executable, str(ROOT / program), *map(str, flags), *(["--cpu"] if device == "cpu" else [])]
        else:
            yield [sys.executable, "-m", program, *map(str, flags)]
    publish(stage, sets, again_from=again_from)


def full_commands(stage, data, sets):
    """Training of each phase, then the tests."""
    network = ["main_ori.py", "--model", stage.model, "--scale", stage.scale]
    made_of = start = full_precision_file(stage.start) if stage.start else None
    if quantized := made_again_from(stage):
        made_of, start = quantized, EXPERIMENT_ROOT / RUNS / f"{stage.name}.start.pt"
        keep_levels(quantized, start)
    parts = made_here(stage).parts
    for number, phase in enumerate(parts, 1):
        run = f"{RUNS}/{stage.name}.{'again' if quantized else number}"
        begin_or_continue = continued(run, recipe(replace(stage, parts=parts[:number])), made_of)
        yield [*network, *training_flags(run, stage, data), *begin_or_continue, "--patch_size",
               phase.patch * stage.scale, "--test_every", phase.epoch,
               *schedule(phase.steps // phase.epoch, phase.lr, phase.gamma),
               "--init", stage.init, *(["--pre_train", start] if start else [])]
        start, made_of = EXPERIMENT_ROOT / run, folder_of(run).best
    keep_full_precision(made_of, output_file(stage))
    yield [*network, *test_flags(stage, data, sets)]


def made_here(stage):
    """The stage, or, where its network is made again, the one with the phases for that."""
    return replace(stage, parts=AGAIN) if made_again_from(stage) else stage


def made_again_from(stage):
    """The widest quantized network that comes with the code, of a full-precision one that does not; None of others.

    None too where the budget has other numbers by now than those that made the listed one.
    """
    if not isinstance(stage, FullPrecision) or stage.shipped or _listed(stage).get("recipe") != recipe(stage):
        return None
    files = (PRETRAINED / entry["file"] for entry in read_index()  # sort_key: wide before narrow
             if entry["shipped"] and entry["recipe"]["network"] == stage.network)
    return next((file for file in files if file.is_file()), None)


def schedule(epochs, lr, gamma=GAMMA):
    """Flags of epochs, rate and decay."""
    decay = sorted({max(1, round(share * epochs)) for share in DECAY})
    return ["--epochs", epochs, "--lr", lr, "--gamma", gamma, "--decay", "-".join(map(str, decay))]


def low_commands(stage, data, sets):
    """Training, packing and the tests."""
    network = ["main_limitrange_incremental.py", "--model", stage.model, "--scale", stage.scale, "--k_bits",
               stage.k_bits, "--quantizer", stage.quantizer, "--skip_bits", stage.skip_bits]
    run = f"{RUNS}/{stage.name}"
    start = full_precision_file(stage.network)
    epochs = stage.steps // LOW_EPOCH + 1  # the first one calibrates
    yield [*network, *training_flags(run, stage, data), *continued(run, recipe(stage), start), "--pre_train", start,
           "--seed", stage.seed, *(["--init_bounds", stage.init_bounds] if stage.quantizer == "ddtb" else []),
           "--dynamic_ratio", RATIOS[stage.model], "--patch_size", stage.patch * stage.scale,
           "--test_every", LOW_EPOCH, *schedule(epochs, stage.lr)]
    if stage.shipped:
        yield ["quant.pack", "--refine", EXPERIMENT_ROOT / run, "--out", output_file(stage)]
    else:
        shutil.copy(folder_of(run).best, output_file(stage))
    yield [*network, *test_flags(stage, data, sets)]


def training_flags(run, stage, data):
    """What all training has in common."""
    return ["--save", run, "--batch_size", stage.batch, "--amp", "bf16", "--n_threads", 0,
            "--checkpoint_every", 100, *data.training(stage.network)]


def test_flags(stage, data, sets):
    """A test of the stage's file on the benchmark sets that are there."""
    return ["--test_only", "--refine", output_file(stage), "--save", f"results/{stage.name}", "--save_results",
            "--continue_test", "--dir_data", data.dir_data, "--data_test", "+".join(sets)]


def keep_full_precision(file, path):
    """Write the weights in a checkpoint, and nothing else of it, to `path`."""
    save_torch_file(read_torch_file(file)["state_dict"], path)


def keep_levels(file, path):
    """Write the weights of a quantized network, each the value that its level stands for, as a full-precision one's."""
    network = open_network(file)
    state = network.state_dict()
    save_torch_file({name: state[name] for name in type(network)(**network.settings).state_dict()}, path)


def full_precision_file(network):
    """The file of a network, as edsr_x4, in full precision."""
    return PRETRAINED / f"{network.replace('_x', '_baseline_x')}.pt"


def output_file(stage):
    """The file that a stage makes: in pretrained/, or, for comparison only, beside the journal."""
    if isinstance(stage, FullPrecision):
        return full_precision_file(stage.network)
    if stage.shipped:
        return PRETRAINED / f"{stage.name}.safetensors"
    return EXPERIMENT_ROOT / RUNS / f"{stage.name}.pth.tar"


def finished(stage):
    """Whether models.json lists a stage as made by the budget's present numbers, and its file is there.

    Of what is compared only, the figures are enough: nothing starts from it.
    """
    entry = _listed(stage)
    if entry.get("recipe") != recipe(stage):
        return False
    if not stage.shipped:
        return output_file(stage).is_file() or stage.for_comparison
    return output_file(stage).is_file() and file_hash(output_file(stage)) == entry["sha256"]


def _listed(stage):
    """The stage's entry in models.json, {} where it has none."""
    return next((entry for entry in read_index() if entry["file"] == output_file(stage).name), {})


def recipe(stage):
    """The budget's numbers as models.json keeps them."""
    return json.loads(json.dumps({name: value for name, value in asdict(stage).items() if name != "seconds"}))


def read_index():
    return json.loads((PRETRAINED / "models.json").read_text())


def publish(stage, sets, *, again_from=""):
    """List the stage's file with its hash, recipe and figures of `sets` in models.json and on the page beside it."""
    found = scores(f"results/{stage.name}", (stage.model, stage.scale), sets)
    results = {name: [round(value, 6) for value in found[name]] for name in SETS if name in found}
    _list(stage, file_hash(output_file(stage)), results, stage.variant,
          **({"again_from": again_from} if again_from else {}))


def publish_divergence(stage, epoch):
    """List a stage whose training ends in an epoch with a loss that is not finite: it has no file and no figures."""
    _list(stage, "", {}, ", ".join(filter(None, (stage.variant, f"diverges in epoch {epoch}"))))


def _list(stage, sha256, results, variant, **more):
    entry = {"file": output_file(stage).name, "model": stage.model, "scale": stage.scale, "k_bits": stage.k_bits,
             "sha256": sha256, "results": results, "variant": variant, "shipped": stage.shipped,
             "recipe": recipe(stage), **more}
    with open(EXPERIMENT_ROOT / RUNS / ".lock", "w") as file:
        lock(file, wait=True)  # another queue may be publishing
        entries = [other for other in read_index() if other["file"] != entry["file"]] + [entry]
        with atomic_path(PRETRAINED / "models.json") as path:
            path.write_text(json.dumps(sorted(entries, key=sort_key), indent=1) + "\n")
        write_page(PRETRAINED)


def sort_key(entry):
    """Where an entry stands in models.json: networks together, wide before narrow, DDTB's own before its variants."""
    variants = ["", "calibrated bounds", "calibrated bounds, sums in 8 bits"]
    known = entry["variant"] in variants
    return (entry["model"], entry["scale"], -entry["k_bits"], entry["recipe"].get("quantizer", "ddtb") != "ddtb",
            variants.index(entry["variant"]) if known else len(variants), entry["file"])
