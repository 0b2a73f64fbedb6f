"""A stage of `make networks`: the command lines that make one network, and the file that they give."""

import functools
import shutil
from dataclasses import replace

from data.image_sets import find_test_sets
from data.images import image_files
from data.twins import find_twins
from examples import command_line
from examples.budgets import DECAY, GAMMA, HELD_OUT, LOW_EPOCH, RATIOS, FullPrecision, Phase, recipe
from examples.entries import (
    RUNS,
    coarse_start,
    earlier_file,
    full_precision_file,
    made_here,
    output_file,
    publish,
    start_file,
)
from examples.listing import test_command
from examples.results import available
from examples.runs import continued, folder_of, mark_finished
from model.saved import best_or_last, file_hash
from model.torch_file import read_torch_file, save_torch_file
from option import EXPERIMENT_ROOT
from quant.open import open_network
from utility import UserError, atomic_path

MORE = ".more"  # ends the name of a quantized network's second run


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
    begun = coarse or earlier_file(stage)
    runs, again_from = runs_of(stage), file_hash(begun) if begun else ""
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
        made_of, start = coarse, start_file(stage, ".pt")
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
        first, second = [f"{RUNS}/{stage.name}"], [f"{RUNS}/{stage.name}{MORE}"] if stage.more else []
        return second if earlier_file(stage) else first + second
    again, parts = coarse_start(stage), made_here(stage).parts
    return [f"{RUNS}/{stage.name}.{'again' if again else number}" for number, _ in enumerate(parts, 1)]


def schedule(epochs, lr, gamma=GAMMA):
    """Flags of epochs, rate and decay."""
    decay = sorted({max(1, round(share * epochs)) for share in DECAY})
    return ["--epochs", epochs, "--lr", lr, "--gamma", gamma, "--decay", "-".join(map(str, decay))]


def low_commands(stage, data, again):
    """Training, in one or two runs, and packing where the file ships."""
    teacher, begun = full_precision_file(stage.network), earlier_file(stage)
    if begun and begun != (kept := start_file(stage, begun.suffix)):
        with atomic_path(kept) as path:  # the shipped one is about to be replaced
            shutil.copy(begun, path)
        begun = kept
    runs = runs_of(stage)
    for run in runs:
        goes_on = run.endswith(MORE)
        phase = stage.more if goes_on else Phase(stage.steps, stage.patch, stage.lr, LOW_EPOCH)
        made_of = (begun or folder_of(runs[0]).best) if goes_on else teacher
        began_by = {"recipe": recipe(stage if goes_on else replace(stage, more=None)), "start": file_hash(made_of),
                    "images": data.train}
        epochs = phase.steps // phase.epoch + (not goes_on)  # the first one calibrates
        yield ["main_limitrange_incremental.py", "--model", stage.model, "--scale", stage.scale,
               "--k_bits", stage.k_bits, "--quantizer", stage.quantizer, "--skip_bits", stage.skip_bits,
               *training_flags(run, stage, data), *continued(run, began_by, again=again), "--pre_train", teacher,
               *(["--refine", made_of] if goes_on else calibration_flags(stage)), "--seed", stage.seed,
               "--patch_size", phase.patch * stage.scale, "--test_every", phase.epoch,
               *schedule(epochs, phase.lr, phase.gamma)]
    if stage.shipped:
        yield ["quant.pack", "--refine", EXPERIMENT_ROOT / runs[-1], "--out", output_file(stage)]
    else:
        shutil.copy(best_or_last(folder_of(runs[-1]).path), output_file(stage))


def calibration_flags(stage):
    """How bounds and gates of a network begin."""
    bounds = ["--init_bounds", stage.init_bounds] if stage.quantizer == "ddtb" else []
    return [*bounds, "--dynamic_ratio", RATIOS[stage.model]]


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
