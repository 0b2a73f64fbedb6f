"""A stage of `make networks`: the command lines that make one network, the file they give, its entry in models.json."""

import functools
import shutil
from dataclasses import replace

from data.image_sets import find_test_sets
from data.images import image_files
from data.twins import find_twins
from examples import ROOT, command_line
from examples.budgets import (
    AGAIN,
    DECAY,
    GAMMA,
    HELD_OUT,
    LOW_EPOCH,
    RATIOS,
    FullPrecision,
    full_precision_name,
    recipe,
)
from examples.listing import ListedNetwork, read_listed, test_command, test_run, write_listed
from examples.page import write_page
from examples.results import SETS, available, scores
from examples.runs import continued, folder_of, mark_finished
from model.saved import best_or_last, file_hash
from model.torch_file import read_torch_file, save_torch_file
from option import EXPERIMENT_ROOT
from quant.open import open_network
from utility import UserError, lock

PRETRAINED = ROOT / "pretrained"
RUNS = "networks"  # below the experiments' folder


class DataFlags:
    """The flags that name data; validation images are those kept from training, no test set chooses anything."""

    def __init__(self, dir_data):
        hr = dir_data / "DIV2K" / "DIV2K_train_HR"
        if not hr.is_dir():
            raise UserError(f"--dir_data {dir_data}: no {hr}; add --photos FOLDER_OF_FOLDERS to make it")
        self.dir_data, self.hr = dir_data, hr
        held_out = sum(HELD_OUT.values())
        self.train = len(image_files(hr)) - held_out
        if self.train < 1:
            raise UserError(f"{hr}: {held_out} of its images are kept from training, it has no more; give --dir_data "
                            "with more images")
        self.sets = functools.cache(functools.partial(available, dir_data))  # by scale; what lacks is told once

    def check_apart(self, scales):
        """Raise UserError where a picture to train with or to choose by is a test picture, too, under any name."""
        tested = {pair.hr for scale in scales for found in find_test_sets(
            self.dir_data, self.sets(scale), scale=scale, data_range="1-1/1-1") for pair in found.pairs}
        twins, problems = find_twins(image_files(self.hr), sorted(tested))
        if problems:
            raise UserError(problems[0])
        if twins:
            first = twins[0]
            origin = next((self.dir_data / "photographs").glob(f"{first.training.stem}.*"), first.training)
            remedy = f"take {origin.resolve()} out of --photos, and give --dir_data a new folder" \
                if origin.is_symlink() else "take it out, and its LR images"
            raise UserError(f"{first.training}: is a test picture, {first.testing}; {remedy} ({len(twins)} in all)")

    def training(self, stage):
        """Of a run of a stage."""
        last = self.train + stage.validated
        return ["--dir_data", self.dir_data, "--data_range", f"1-{self.train}/{self.train + 1}-{last}",
                "--data_test", "DIV2K"]


def commands(stage, data, device, *, again=False):
    """The command lines of a stage, made one by one: each looks at what is there when its turn comes.

    After the last one the stage is listed. again: it is trained anew, though it is finished. Raises UserError where the
    network that it starts from is not there.
    """
    coarse = coarse_start(stage)
    start = stage.starts_from
    if start and not coarse and not (file := full_precision_file(start)).is_file():
        raise UserError(f"{file}: missing, and {stage.name} starts from it; --only {start} makes it")
    runs, again_from = runs_of(stage), file_hash(coarse) if coarse else ""
    trained = full_commands if isinstance(stage, FullPrecision) else low_commands
    for step in trained(stage, data, again):
        on_cpu = device == "cpu" and step[0].endswith(".py")
        yield command_line([*step, *(["--cpu"] if on_cpu else [])])
    yield command_line([*test_command(stage, output_file(stage), data.sets(stage.scale), data.dir_data),
                        "--continue_test", *(["--cpu"] if device == "cpu" else [])])
    publish(stage, data.sets(stage.scale), again_from=again_from)
    for run in runs:
        mark_finished(run)


def full_commands(stage, data, again):
    """Training of each phase; the last one's weights are kept."""
    made_of = start = full_precision_file(stage.start) if stage.start else None
    if coarse := coarse_start(stage):
        made_of, start = coarse, EXPERIMENT_ROOT / RUNS / f"{stage.name}.start.pt"
        keep_levels(coarse, start)
    parts = made_here(stage).parts
    for number, (run, phase) in enumerate(zip(runs_of(stage), parts, strict=True), 1):
        began_by = {"recipe": recipe(replace(stage, parts=parts[:number])), "start": made_of and file_hash(made_of),
                    "images": data.train}
        yield ["main_ori.py", "--model", stage.model, "--scale", stage.scale, *training_flags(run, stage, data),
               *continued(run, began_by, again=again), "--patch_size", phase.patch * stage.scale,
               "--test_every", phase.epoch, *schedule(phase.steps // phase.epoch, phase.lr, phase.gamma),
               "--init", stage.init, *(["--pre_train", start] if start else [])]
        start, made_of = EXPERIMENT_ROOT / run, folder_of(run).best
    keep_full_precision(made_of, output_file(stage))


def runs_of(stage):
    """The names of a stage's runs, below the experiments' folder."""
    if not isinstance(stage, FullPrecision):
        return [f"{RUNS}/{stage.name}"]
    parts = made_here(stage).parts
    return [f"{RUNS}/{stage.name}.{'again' if parts is AGAIN else number}" for number, _ in enumerate(parts, 1)]


def made_here(stage):
    """The stage, or, where it begins with a quantized network's weights, the one with the phases for that."""
    return replace(stage, parts=AGAIN) if coarse_start(stage) else stage


def coarse_start(stage):
    """The quantized file, the widest shipped, from whose weights full precision that is not shipped is trained again.

    None for other stages, and where the budget has other numbers by now than those that made the listed network.
    """
    if not isinstance(stage, FullPrecision) or stage.shipped:
        return None
    listed = entry_of(stage)
    if listed is None or listed.recipe != recipe(stage):
        return None
    files = (PRETRAINED / entry.file for entry in read_listed(PRETRAINED)  # in order: wide before narrow
             if entry.shipped and entry.recipe["network"] == stage.network)
    return next((file for file in files if file.is_file()), None)


def schedule(epochs, lr, gamma=GAMMA):
    """Flags of epochs, rate and decay."""
    decay = sorted({max(1, round(share * epochs)) for share in DECAY})
    return ["--epochs", epochs, "--lr", lr, "--gamma", gamma, "--decay", "-".join(map(str, decay))]


def low_commands(stage, data, again):
    """Training, and packing where the file ships."""
    [run] = runs_of(stage)
    start = full_precision_file(stage.network)
    epochs = stage.steps // LOW_EPOCH + 1  # the first one calibrates
    began_by = {"recipe": recipe(stage), "start": file_hash(start), "images": data.train}
    yield ["main_limitrange_incremental.py", "--model", stage.model, "--scale", stage.scale, "--k_bits", stage.k_bits,
           "--quantizer", stage.quantizer, "--skip_bits", stage.skip_bits, *training_flags(run, stage, data),
           *continued(run, began_by, again=again), "--pre_train", start,
           "--seed", stage.seed, *(["--init_bounds", stage.init_bounds] if stage.quantizer == "ddtb" else []),
           "--dynamic_ratio", RATIOS[stage.model], "--patch_size", stage.patch * stage.scale,
           "--test_every", LOW_EPOCH, *schedule(epochs, stage.lr)]
    if stage.shipped:
        yield ["quant.pack", "--refine", EXPERIMENT_ROOT / run, "--out", output_file(stage)]
    else:
        shutil.copy(best_or_last(folder_of(run).path), output_file(stage))


def training_flags(run, stage, data):
    """What all training has in common."""
    return ["--save", run, "--batch_size", stage.batch, "--amp", "bf16", "--n_threads", 0,
            "--checkpoint_every", 100, *data.training(stage)]


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
    return PRETRAINED / f"{full_precision_name(network)}.pt"


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
    entry = entry_of(stage)
    if entry is None or entry.recipe != recipe(stage):
        return False
    return stage.for_comparison or entry.is_in(PRETRAINED)


def entry_of(stage):
    """The stage's ListedNetwork, None where it has none."""
    return next((entry for entry in read_listed(PRETRAINED) if entry.file == output_file(stage).name), None)


def publish(stage, sets, *, again_from=""):
    """List the stage's file with its hash, recipe and figures of `sets` in models.json and on the page beside it."""
    found = scores(test_run(output_file(stage).name), (stage.model, stage.scale), sets)
    results = {name: [round(value, 6) for value in found[name]] for name in SETS if name in found}
    _replace_entry(stage, file_hash(output_file(stage)), results, stage.variant, again_from)


def publish_divergence(stage, epoch):
    """List a stage whose training ends in an epoch with a loss that is not finite: it has no file and no figures."""
    _replace_entry(stage, "", {}, ", ".join(filter(None, (stage.variant, f"diverges in epoch {epoch}"))))


def _replace_entry(stage, sha256, results, variant, again_from=""):
    entry = ListedNetwork(output_file(stage).name, stage.model, stage.scale, stage.k_bits, sha256, results, variant,
                          stage.shipped, recipe(stage), again_from)
    with open(EXPERIMENT_ROOT / RUNS / ".lock", "w") as file:
        lock(file, wait=True)  # another queue may be publishing
        write_listed(PRETRAINED, [*(other for other in read_listed(PRETRAINED) if other.file != entry.file), entry])
        write_page(PRETRAINED)
