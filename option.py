"""The command line of both entry points: flags in EDSR-PyTorch's groups, and checks across them.

Every flag of EDSR-PyTorch is accepted; one that has no effect here says so in `--help`.
"""

import argparse
import functools
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from data.image_sets import parse_ranges
from engine.checkpoint import checkpoint_with_options, reading_parts
from engine.run_folder import RunFolder
from loss import parse as parse_loss
from model import registry
from model.saved import best_or_last, same_place
from model.settings import SETTINGS, Setting
from quant.config import QuantConfig, as_kept
from quant.distill import BOUND_LR
from quant.methods import METHODS, method_settings
from quant.open import known_flags
from quant.phase import Phase
from quant.schedule import CHOICES, DYNAMIC_RATIO, FIRST_STAGE_EPOCH
from utility import FULL_PRECISION, UserError, check_file, whole_number

EXPERIMENT_ROOT = Path("..") / "experiment"
TEMPLATES: dict[str, dict[str, Any]] = {
    ".": {}, "EDSR_paper": {"model": "edsr", "n_resblocks": 32, "n_feats": 256, "res_scale": 0.1},
    "GAN": {"epochs": 200, "lr": 5e-5, "decay": 150}}
# what full precision has no use for, and what quantized training has none for
QUANTIZED = {"dynamic_ratio", "dynamic_choice", "first_stage_epoch", "bound_lr", "w_l1", "w_at"}
UNQUANTIZED = {"loss", "gan_k", "vgg_weights"}
COMPATIBILITY = "accepted for compatibility only, no effect"
# flags of EDSR-PyTorch and of DDTB's release that change nothing in these networks, with their values there
COMPATIBLE = {"act": "relu", "extend": ".", "shift_mean": "True", "n_resgroups": 10, "reduction": 16, "split_batch": 1,
              "skip_threshold": 1e8, "suffix": "", "ema_epoch": 1, "pix_type": "l1", "conv_idx": "22",
              "nesterov": "False", "threshld_ratio": 1.0, "debug": False, "dilation": False, "kl": False}
# what a call decides for itself; a run's checkpoint knows the other options
OF_EACH_CALL = {"save", "load", "resume", "reset", "test_only", "backend", "template", "cpu", "gpu_id", "n_GPUs",
                "continue_test"}
# what can't change during training; what matters only before it; what is tested, and how
FIXED = {"optimizer", "seed"}
BEFORE_TRAINING = {"pre_train", "refine", "init"}
RATES = {"lr", "bound_lr", "decay", "gamma"}  # all of them together give an epoch's rate
TESTED_ON = {"dir_data", "dir_demo", "data_test", "data_range", "ext", "n_threads", "chop", "chop_size"}
NOT_FLAGS = ("given", "notes")  # what the Namespace holds besides flags
LIGHTER = "lower --batch_size or --patch_size, test with --chop and a small --chop_size"  # where memory is used up
NO_BEST = "warning: no best network is counted before epoch %d (--first_stage_epoch), and --epochs is %d"
RESUME_OWN = "the run of --save"  # what a bare --resume means


def _sets(text):
    return [name for name in text.split("+") if name]


def _switch(text):
    """What may follow a flag that stands alone, to turn off what --load or --template brings."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r:.40} does not belong here; give nothing, True or False")
    return text.lower() == "true"


def _scale(text):
    if (number := whole_number(text)) is None:
        raise UserError(f"--scale {text:.40}: one whole number is needed; a network is trained for one scale")
    return number


def _betas(text):
    try:
        first, second = (float(part) for part in text.strip("()").split(","))
    except ValueError:
        raise UserError(f"--betas {text}: give two numbers joined with a comma, as 0.9,0.999") from None
    return first, second


def _decay(text):
    epochs = [whole_number(part) for part in text.split("-")]
    if None in epochs or epochs != sorted(set(epochs)) or epochs[0] < 1:
        raise UserError(f"--decay {text}: give a number of epochs, as 200, or rising epochs joined with -, as 200-400")
    return epochs[0] if len(epochs) == 1 else epochs


def groups() -> dict[str, dict[str, Setting]]:
    """{title: {flag: Setting}} of all flags, also those of networks and quantizers that somebody added.

    Ranges end where a machine would be brought down before anything can fail.
    """
    compatible = {name: Setting(type(default), default, COMPATIBILITY) for name, default in COMPATIBLE.items()
                  if name not in SETTINGS}  # a network that somebody added has it
    methods = {name: Setting(str, own.values[0], own.help, own.values) for name, own in method_settings().items()}
    return {
        "Hardware": {
            "n_threads": Setting(int, 6, "worker processes that load training images", least=0, most=1024),
            "cpu": Setting(bool, False, "run on the CPU, also where there is a GPU"),
            "gpu_id": Setting(int, 0, "number of the CUDA device", least=0),
            "n_GPUs": Setting(int, 1, "number of GPUs; for more than one start with torchrun", least=1, most=2**16),
            "deterministic": Setting(
                bool, False, "on CUDA: repeat runs bit for bit, slower; the CPU does so anyway"),
            "seed": Setting(int, 1, "seed of everything random", least=0),
            "template": Setting(
                str, ".", "EDSR_paper: --n_resblocks 32 --n_feats 256 --res_scale 0.1, GAN: --epochs 200 --lr 5e-5 "
                "--decay 150, where these are not given"),
        },
        "Data": {
            "dir_data": Setting(str, "dataset/sr_data", "folder that holds DIV2K/ and benchmark/"),
            "dir_demo": Setting(str, "../test", "folder of images for --data_test Demo"),
            "data_train": Setting(list, ["DIV2K"], "training sets, joined with +", read=_sets),
            "data_test": Setting(
                list, ["Set5"], "test sets, joined with +; the first chooses the best network", read=_sets),
            "data_range": Setting(
                str, "1-800/801-810", "images for training/testing, from 1; a range a set, as 1-800+1-2650/801-810, a "
                "set without one gives all"),
            "ext": Setting(
                str, "sep", "img: decode images when needed; sep: keep decoded copies; sep_reset: make them anew",
                ("img", "sep", "sep_reset")),
            "patch_size": Setting(int, 192, "training patch in HR pixels", least=1),
            "no_augment": Setting(bool, False, "no random flips and turns of training patches"),
            "chop": Setting(bool, False, "test in overlapping tiles, to save memory"),
            "chop_size": Setting(
                int, 256, "longest side of an upsampler's tile in LR pixels; the body's are larger", least=32),
        },
        "Model": {
            "model": Setting(
                str, "edsr", f"{', '.join(map(registry.title, registry.NETWORKS))} (bnsrresnet: SRResNet)",
                read=registry.find),
            "pre_train": Setting(
                str, "", "full-precision weights to start from, and the teacher's; of another scale: all but the "
                "upsampler"),
            "init": Setting(
                str, "random", "full precision: weights before training; interpolation: the network begins as bilinear "
                "enlargement, for short training", ("random", "interpolation")),
            "refine": Setting(str, "", "weights to test, or to train further: a file or a run's folder"),
            **SETTINGS,
            "scale": replace(SETTINGS["scale"], read=_scale),
            "precision": Setting(
                str, "single", "arithmetic of tests; half: 16-bit convolutions", ("single", "half")),
        },
        "Quantization": {
            "k_bits": Setting(int, FULL_PRECISION, "bits of weights and features: 2 to 8; 32: full precision",
                              (*range(2, 9), FULL_PRECISION)),
            "skip_bits": Setting(
                int, 0, "bits of the features that feed a sum and no convolution, 2 to 8 (EDSR, RDN); 0: those of "
                "--k_bits, as published", (0, *range(2, 9))),
            "dynamic_ratio": Setting(
                float, DYNAMIC_RATIO, "share of quantizers whose gate is used, 0 to 1", least=0, most=1),
            "quantizer": Setting(
                str, "ddtb", "the method; others than ddtb are for comparison: PAMS, PACT, DoReFa, moving min and max",
                tuple(METHODS)),
            **methods,
            "dynamic_choice": Setting(
                str, "variance", "ddtb: which gates are used: those of the most varying ranges; random: drawn by "
                "--seed, an ablation", CHOICES),
            "first_stage_epoch": Setting(
                int, FIRST_STAGE_EPOCH, "first epoch whose gates are applied (ddtb), and whose network can be the "
                "best; 2: no staged start, an ablation", least=2),
        },
        "Training": {
            "reset": Setting(bool, False, "delete the run that --save names before starting"),
            "test_every": Setting(int, 1000, "batches in an epoch", least=1),
            "epochs": Setting(int, 60, "epochs to train", least=1),
            "batch_size": Setting(int, 16, "patches in a batch, over all processes", least=1, most=2**20),
            "test_only": Setting(bool, False, "test and stop"),
            "backend": Setting(
                str, "torch", "what runs the network in tests; onnx, openvino: ONNX Runtime or OpenVINO, on a file of "
                "quant.export that --refine names (openvino: of its --format qdq)", ("torch", "onnx", "openvino")),
            "amp": Setting(
                str, "off", "16-bit convolutions in training; quantizers and losses stay in 32 bit",
                ("off", "bf16", "fp16")),
            "compile": Setting(
                bool, False, "torch.compile the forward and backward passes of training steps: minutes first, for "
                "GPUs"),
            "self_ensemble": Setting(bool, False, "test with 8 flips and turns, averaged"),
            **compatible,
        },
        "Optimization": {
            "lr": Setting(float, 1e-4, "learning rate", positive=True, most=1e36),
            "bound_lr": Setting(float, BOUND_LR, "learning rate of trained bounds", positive=True, most=1e36),
            "decay": Setting(object, 10, "epochs between decays, or epochs joined with -, as 200-400", read=_decay),
            "gamma": Setting(float, 0.5, "factor of a decay", positive=True),
            "optimizer": Setting(str, "ADAM", "optimizer", ("SGD", "ADAM", "RMSprop")),
            "momentum": Setting(float, 0.9, "momentum (SGD)", least=0),
            "betas": Setting(tuple, (0.9, 0.999), "two factors joined with a comma (ADAM)", read=_betas),
            "epsilon": Setting(float, 1e-8, "epsilon (ADAM, RMSprop)", positive=True),
            "weight_decay": Setting(float, 0.0, "weight decay", least=0),
            "gclip": Setting(float, 0.0, "largest absolute gradient, 0 for no limit", least=0),
        },
        "Loss": {
            "loss": Setting(
                str, "1*L1", "full precision: a sum of L1, MSE, VGG22, VGG54, GAN, WGAN, WGAN_GP, RGAN, as "
                "1*L1+0.1*VGG54"),
            "gan_k": Setting(int, 1, "steps of the discriminator in a batch", least=1),
            "vgg_weights": Setting(str, "", "file of VGG19's weights; without it torchvision downloads them"),
            "w_l1": Setting(float, 1.0, "quantized: weight of L1", least=0),
            "w_at": Setting(float, 1000.0, "quantized: weight of attention transfer", least=0),
        },
        "Log": {
            "save": Setting(str, "test", "name of the run, a folder in ../experiment"),
            "load": Setting(str, "", "name of a run to continue, with its options where no others are given"),
            "resume": Setting(
                str, "", "checkpoint to continue; a number: the run's epoch that --save_models kept; alone or -1: "
                "continue the run that --save names; 0: begin"),
            "save_models": Setting(bool, False, "keep the network of every epoch"),
            "checkpoint_every": Setting(int, 0, "batches between checkpoints, 0: each epoch", least=0),
            "print_every": Setting(int, 100, "batches between lines of the log", least=1),
            "continue_test": Setting(
                bool, False, "with --test_only: after a stop the same command goes on where it was, image by image"),
            "save_results": Setting(bool, False, "save the SR images of tests"),
            "save_gt": Setting(bool, False, "with --save_results: save LR and HR too"),
        },
    }


def _settings():
    return {name: setting for group in groups().values() for name, setting in group.items()}


class _Parser(ArgumentParser):
    """Tells what does not parse in one line, as every other mistake is told."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def build_parser(*, quantized: bool) -> ArgumentParser:
    """The argparse parser with every flag; what it gives holds the flags that were typed and no others."""
    what = "Quantize a network with DDTB, or test a quantized one." if quantized else \
        "Train a full-precision network, or test one."
    # no abbreviations: the scripts refuse the flags that they give themselves by their names
    parser = _Parser(description=what, argument_default=argparse.SUPPRESS, allow_abbrev=False,
                     formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=32, width=110))
    for title, settings in groups().items():
        group = parser.add_argument_group(title)
        for name, setting in settings.items():
            how: dict[str, Any] = {"type": setting.read or setting.type}
            if setting.type is bool:
                how = {"type": _switch, "nargs": "?", "const": True, "metavar": "False"}
            elif setting.type is str and setting.values:
                how["metavar"] = f"{{{','.join(setting.values)}}}"
            elif name == "resume":
                how |= {"nargs": "?", "const": RESUME_OWN}
            silent = setting.type is bool or setting.default in ("", ".") or setting.help == COMPATIBILITY
            default = "" if silent else f" (default: {_typed(setting.default)})"
            group.add_argument(f"--{name}", help=setting.help + default, **how)
    return parser


def parse_options(argv: Sequence[str] | None = None, *, quantized: bool) -> Namespace:
    """Parse `argv` (default: sys.argv) into a Namespace with checked values.

    quantized: whether the program is the quantizing one; the other refuses --k_bits. `model` becomes the registry's
    name, `data_train` and `data_test` lists, `decay` an int or a list of epochs. What is not given comes from
    --template, else from the run that the call continues, else from the defaults; `notes`, lines for the log, says so.
    `given`: the names of the flags that were typed. In a test the network's file gives its other flags. Raises
    UserError for a flag that does not parse or a value that cannot work.
    """
    parser = build_parser(quantized=quantized)
    defaults = {name: setting.default for name, setting in _settings().items()}
    given = vars(parser.parse_args(argv))
    given = {**TEMPLATES.get(given.get("template", "."), {}), **given}
    typed = {*given, *(() if quantized else ("k_bits",))}  # the full-precision program stands for --k_bits 32
    options = Namespace(**{**defaults, **given}, given=typed, notes=[])
    _name_the_run(options)
    if found := _own_run(options, parser, defaults):
        path, stored, fixed = found
        _merge_with_run(options, given, defaults, path, stored, fixed)
    check(options, quantized=quantized)
    if not found and quantized and not options.test_only and "k_bits" not in given:
        options.notes.append("no --k_bits: full precision is what runs; give --k_bits 2 to 8 to quantize")
    options.notes += [f"warning: {_flag(name, given[name])} has no effect here" for name in _without_effect(options)
                      if name in given and str(given[name]).lower() != str(defaults[name]).lower()]
    if options.init != "random" and options.pre_train and not (options.load or options.resume):
        options.notes.append(f"--init {options.init}: only for what --pre_train lacks, the upsampler of another scale")
    if options.patch_size % options.scale and not options.test_only:
        used = options.patch_size // options.scale * options.scale
        options.notes.append(f"--patch_size {options.patch_size}: {used} is used, a multiple of --scale")
    if options.k_bits != FULL_PRECISION and not (options.test_only or options.refine) and \
            options.epochs < options.first_stage_epoch:
        options.notes.append(NO_BEST % (options.first_stage_epoch, options.epochs))
    return options


def _name_the_run(options):
    """Reduce --save, --load and --resume to two: `load`, the name of a run, and `resume`, a file; each may be empty."""
    experiment_folder(options.save)
    if options.resume in (RESUME_OWN, "-1"):
        options.load, options.resume = options.load or options.save, ""
    elif options.resume == "0":
        if options.load:
            options.notes.append("--resume 0 has no effect: --load continues")
        options.resume = ""
    elif whole_number(options.resume) is not None:
        options.load = options.load or options.save
        options.resume = str(_kept_epoch(experiment_folder(options.load, flag="load"), options.resume))
    elif options.resume and not options.test_only:
        if os.path.isdir(options.resume):
            options.resume = str(RunFolder(options.resume).checkpoint)
        check_file(options.resume, "--resume")
    if options.load:
        folder = experiment_folder(options.load, flag="load")
        if "save" in options.given and experiment_folder(options.save) != folder:
            options.notes.append(f"--save {options.save} has no effect: --load goes on in {folder}")


def _kept_epoch(folder, number):
    """The file that --save_models kept of an epoch, as EDSR-PyTorch's --resume NUMBER asks for it."""
    kept = RunFolder(folder).kept_epochs()
    if int(number) not in kept:
        there = f"it has {', '.join(map(str, sorted(kept)))}" if kept else "it has none, --save_models keeps them"
        raise UserError(f"--resume {number}: no such epoch is kept in {folder}/model ({there}); leave the number out "
                        f"to continue from the last checkpoint{RunFolder(folder).told_aside()}")
    return kept[int(number)]


def _own_run(options, parser, defaults):
    """(checkpoint, its options, names of those that can't change) of the run that is continued or tested; else None."""
    run = experiment_folder(options.load or options.save)
    if options.test_only:  # the network's file says what it is; a run says on which images it is tested
        weights = options.refine or options.resume or means_pre_train(options)
        path = best_or_last(run) if options.load or not weights else None
    else:
        path = options.resume or options.load and RunFolder(run).checkpoint
    # what --resume names may be another kind of file; what is wrong with it is told when it is read
    state = path and checkpoint_with_options(path, damaged_too=bool(options.resume))
    if not state:
        return None
    stored = {"compile": bool(state["options"].get("compiler")), **state["options"]}  # as older runs called it
    stored["ext"] = _kept_ext(stored.get("ext", defaults["ext"]))
    method = METHODS.get(str(stored.get("quantizer")), METHODS["ddtb"])
    others = method_settings().keys() - method.settings.keys()
    known = defaults.keys() - _call_options() - others  # older runs kept these too
    stored = _read_again(path, {name: stored[name] for name in stored if name in known}, parser, defaults)
    fixed = _network_options() | FIXED | method_settings().keys()
    with reading_parts(path):
        if state["objective"].get("schedule", {}).get("chosen"):
            fixed |= {"dynamic_ratio", "dynamic_choice"}
        if state.get("phase") == Phase.DYNAMIC.value:
            fixed |= {"first_stage_epoch"}
    return path, {name: stored[name] for name in stored if name in TESTED_ON or not options.test_only}, fixed


def _read_again(path, stored, parser, defaults):
    """Stored options, read as if they were typed. Raises UserError, naming the file, where no flag can give them."""
    others = {name: value for name, value in stored.items() if _typed(value) != _typed(defaults[name])}
    try:
        read = vars(parser.parse_args([_flag(name, value).replace(" ", "=", 1) for name, value in others.items()]))
        check(Namespace(**{**defaults, **read}), quantized=True)
    except UserError as error:
        raise UserError(f"{path}: its options can't be used ({error}); give another checkpoint") from error
    return {name: read.get(name, defaults[name]) for name in stored}


def _merge_with_run(options, given, defaults, path, stored, fixed):
    """Take what is not given from the run's own options; follow or refuse what is given and differs, with a note."""
    taken = {name: stored[name] for name in sorted(stored) if name not in given}
    vars(options).update(taken)
    flags = " ".join(_flag(name, value) for name, value in taken.items() if value != defaults[name])
    if flags:
        options.notes.append(f"{path}: {flags}, as it was trained")
    idle = _without_effect(options)
    for name in sorted(stored.keys() & given.keys()):
        old, new = stored[name], given[name]
        if old == new:
            continue
        if name in fixed:
            remedy = f"give that instead of {_typed(new)}, or leave it out"
            if (name, old) == ("k_bits", FULL_PRECISION):
                remedy = "quantize it in a run of its own, with --pre_train and another --save"
            raise UserError(f"{path}: was trained with {_flag(name, old)}; {remedy}")
        if not options.test_only and name not in idle:
            effect = "has no effect, the run has its start already" if name in BEFORE_TRAINING else \
                "followed from now on" + ", as if from the first epoch" * (name in RATES)
            options.notes.append(f"{_flag(name, new)}: {effect}; {path} was trained with {_typed(old) or 'none'}")


def _network_options():
    """What makes a trained network: another value, another network."""
    return set(known_flags()) - {name for name, setting in method_settings().items() if setting.for_start}


def _without_effect(o):
    """The flags that change nothing in what the options ask for. A test's file says which ones of the network's do."""
    idle = COMPATIBLE.keys() - _network_options()
    idle |= {"save_gt"} if not o.save_results else set()
    idle |= {"chop_size"} if not o.chop else set()
    if o.test_only:
        idle |= {"pre_train"} if o.refine or o.resume or not means_pre_train(o) else set()
        return sorted(idle | {"reset", "compile", "init"} | ({"precision"} if o.backend != "torch" else set()))
    idle |= {"continue_test"}
    idle |= {name for each in registry.NETWORKS for name in registry.settings_of(each)} - set(
        registry.settings_of(o.model))
    idle |= QUANTIZED | method_settings().keys() if o.k_bits == FULL_PRECISION else UNQUANTIZED
    idle |= {flag for flag, part in (("gan_k", "GAN"), ("vgg_weights", "VGG")) if part not in o.loss}
    if o.quantizer != "ddtb":  # no other method has gates
        idle |= {"dynamic_ratio", "dynamic_choice"}
    if o.dynamic_ratio in (0, 1):  # none to choose
        idle |= {"dynamic_choice"}
    if o.quantizer in METHODS and not METHODS[o.quantizer].activation.trained:
        idle |= {"bound_lr"}
    idle |= {"ADAM": {"momentum"}, "SGD": {"betas", "epsilon"}, "RMSprop": {"betas", "momentum"}}.get(
        o.optimizer, set())
    if o.refine and o.k_bits == FULL_PRECISION:
        idle |= {"pre_train"}
    return sorted(idle)


def means_pre_train(options: Namespace) -> bool:
    """Whether --test_only tests --pre_train: where full precision is asked for, or no run is named that has bits."""
    asked = options.k_bits == FULL_PRECISION and ("k_bits" in options.given or "save" not in options.given)
    return bool(options.pre_train) and asked and not options.load


def _call_options():
    return (OF_EACH_CALL | COMPATIBLE.keys()) - _network_options()


def _flag(name, value):
    """A flag as it is typed."""
    return f"--{name}" if value is True else f"--{name} {_typed(value)}"


def _typed(value):
    """A value as it is typed after its flag."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    joint = "," if isinstance(value, tuple) else "-" if all(isinstance(item, int) for item in value) else "+"
    return joint.join(map(str, value))


def options_to_keep(options: Namespace) -> dict[str, Any]:
    """What a checkpoint keeps of the options: those that a run has, not a call, as plain values."""
    kept = {name: value for name, value in vars(options).items() if name not in {*_call_options(), *NOT_FLAGS}}
    return {**kept, "ext": _kept_ext(options.ext)}


def _kept_ext(ext):
    """A run keeps decoded images; to decode them anew is what one call asks for."""
    return "sep" if ext == "sep_reset" else ext


def check(options: Namespace, *, quantized: bool) -> None:
    """Raise UserError for the first value that cannot work."""
    for flag, wrong, remedy in _rules(options, quantized):
        if wrong:
            raise UserError(f"{_flag(flag, getattr(options, flag))}: {remedy}")
    parse_ranges(options.data_range)
    parse_loss(options.loss)


def _rules(o, quantized):
    """(flag, whether it is wrong, what to do), in the order of reporting."""
    yield "template", o.template not in TEMPLATES, "unknown; choose EDSR_paper or GAN, or give the flags it stands for"
    yield "epochs", o.epochs == 0, ("EDSR-PyTorch trains without end then; give a number, a stopped run is continued "
                                    "with --load NAME and more of them")
    for name, setting in _settings().items():
        problem = setting.problem(getattr(o, name)) if setting.help != COMPATIBILITY else ""
        yield name, problem, problem
    trains, quantizes = not o.test_only, o.k_bits != FULL_PRECISION
    yield "k_bits", quantizes and not quantized, "only main_limitrange_incremental.py quantizes; run that"
    continues = trains and bool(o.load or o.resume)
    yield "reset", o.reset and continues, "begins anew, --load and --resume continue; give one of them"
    if o.reset and trains:
        run = experiment_folder(o.save)
        for flag in ("pre_train", "refine"):
            place = Path(getattr(o, flag) or os.devnull).resolve()
            within = any(same_place(run, folder) for folder in (place, place.parent)) or \
                same_place(run / "model", place.parent)
            yield "reset", within, f"would delete what --{flag} names; give another --save, or leave it out"
    exported = o.backend != "torch"
    yield "backend", exported and trains, "only tests run an exported network; add --test_only"
    yield "backend", exported and not o.refine, "give the exported file, as --refine FILE.onnx"
    yield "chop", exported and o.chop, "tiles are the torch backend's; python -m quant.upscale has its own"
    begins = trains and o.init != "random"
    yield "init", begins and quantizes, "starts full precision; quantized networks take --pre_train"
    yield "init", begins and bool(o.refine), "--refine brings all weights; give one of them"
    yield "betas", not all(0 <= beta < 1 for beta in o.betas), "give two numbers in 0..1, as 0.9,0.999"
    yield "patch_size", trains and o.patch_size < o.scale, f"is less than one LR pixel at --scale {o.scale}; give more"
    one = trains and o.batch_size == 1 and o.patch_size // o.scale == 1 and o.model == "srresnet"
    yield "patch_size", one, "is one LR pixel, too few for batch norms at --batch_size 1; give more of either"
    full = trains and not quantizes  # what is tested says its own bits
    yield "quantizer", o.quantizer != "ddtb" and full, "quantizes nothing at --k_bits 32; give 2 to 8"
    yield "skip_bits", o.skip_bits and full, "quantizes nothing at --k_bits 32; give 2 to 8"
    yield "skip_bits", o.skip_bits and o.model == "srresnet", "SRResNet's skips are not quantized; leave the flag out"
    for flag, setting in method_settings().items():
        owner = next(name for name, method in METHODS.items() if flag in method.settings)
        yield flag, flag not in METHODS[o.quantizer].settings and getattr(o, flag) != setting.values[0], \
            f"is {owner}'s; --quantizer {o.quantizer} has no such setting"
    untaught = trains and quantizes and o.w_l1 == o.w_at == 0
    yield "w_l1", untaught, "with --w_at 0 nothing is learnt from any image; give one of them a weight above 0"
    yield "data_test", not o.data_test, "name a test set"
    yield "data_test", len(set(o.data_test)) < len(o.data_test), "names a set twice; name each once"
    yield "data_train", trains and not o.data_train, "name a training set"


def experiment_folder(name: str | Path, *, flag: str = "save") -> Path:
    """The folder of a run: `output/x`, `../experiment/output/x` and the absolute path of that are the same.

    A link within the root may lead elsewhere. Raises UserError, naming the flag, for a name outside the root,
    ../experiment.
    """
    root = Path(os.path.abspath(EXPERIMENT_ROOT))
    given = Path(name)
    from_here = given.is_absolute() or given.parts[:2] == EXPERIMENT_ROOT.parts
    inside = Path(os.path.abspath(given if from_here else root / given))
    if root not in inside.parents:
        raise UserError(f"--{flag} {name}: runs lie in {EXPERIMENT_ROOT}; give a name in it, as output/edsrx4/4bit")
    return EXPERIMENT_ROOT / inside.relative_to(root)


def network_flags(options: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The flags that a network's file may say itself: ({name: value} of those that were typed, the same of all)."""
    every = {name: getattr(options, name) for name in known_flags() if hasattr(options, name)}
    return {name: value for name, value in every.items() if name in options.given}, every


def variant_of(options: Namespace) -> dict[str, Any]:
    """{flag: value} of what makes the network another than the published ones, whose flags have their defaults."""
    published = {name: setting.default for name, setting in _settings().items()}
    names = set(registry.settings_of(options.model)) - {"scale", "rgb_range"}
    if options.k_bits != FULL_PRECISION:
        names |= QuantConfig.of(options).trained().keys() - {"k_bits"}
    found = as_kept({name: getattr(options, name) for name in sorted(names)}, options.k_bits)
    return {name: value for name, value in found.items() if value != published[name]}


def config_text(options: Namespace) -> str:
    """`name: value` lines, sorted, for config.txt."""
    return "\n".join(f"{name}: {value}" for name, value in sorted(vars(options).items()) if name not in NOT_FLAGS)
