"""The command line of both entry points: flags in EDSR-PyTorch's groups, and checks across them.

Every flag of EDSR-PyTorch is accepted; one that has no effect here says so in `--help`.
"""

import argparse
import math
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.image_sets import parse_ranges
from engine.checkpoint import options_in, reading_parts
from engine.run_folder import RunFolder
from loss import parse as parse_loss
from model import registry
from model.settings import SETTINGS, number
from quant.distill import BOUND_LR
from quant.methods import METHODS, method_settings
from quant.open import best_or_last, known_flags
from quant.phase import Phase
from quant.schedule import FIRST_STAGE_EPOCH
from utility import UserError, check_file, whole_number

EXPERIMENT_ROOT = Path("..") / "experiment"
TEMPLATES = {".": {}, "EDSR_paper": {"model": "edsr", "n_resblocks": 32, "n_feats": 256, "res_scale": 0.1}}
# beyond these a machine is brought down before anything can fail
CEILINGS = {"n_threads": 1024, "n_GPUs": 2**16, "batch_size": 2**20}
# what full precision has no use for, and what quantized training has none for
QUANTIZED = {"dynamic_ratio", "dynamic_choice", "first_stage_epoch", "bound_lr", "w_l1", "w_at"}
UNQUANTIZED = {"loss", "gan_k", "vgg_weights"}
COMPATIBILITY = "accepted for compatibility only, no effect"
# flags of EDSR-PyTorch and of DDTB's release that change nothing in these networks, with their values there
COMPATIBLE = {"act": "relu", "extend": ".", "shift_mean": "True", "n_resgroups": 10, "reduction": 16, "split_batch": 1,
              "skip_threshold": 1e8, "suffix": "", "ema_epoch": 1, "pix_type": "l1", "conv_idx": "22",
              "nesterov": "False", "threshld_ratio": 1.0, "debug": False, "dilation": False, "kl": False}
# what a call decides for itself; a run's checkpoint knows the other options
CALL = {"save", "load", "resume", "reset", "test_only", "backend", "template", "cpu", "gpu_id", "n_GPUs"}
# what can't change during training; what matters only before it; what is tested, and how
TRAINING = {"optimizer", "seed"}
START = {"pre_train", "refine", "init"}
IMAGES = {"dir_data", "dir_demo", "data_test", "data_range", "ext", "n_threads", "chop", "chop_size"}
BESIDES = ("given", "notes")  # what the Namespace holds besides flags
UNGIVEN = object()
LIGHTER = "lower --batch_size or --patch_size, test with --chop and a small --chop_size"  # where memory is used up
RESUME_OWN = "the run of --save"  # what a bare --resume means


def parse_options(argv: Sequence[str] | None = None, *, quantized: bool) -> Namespace:
    """Parse `argv` (default: sys.argv) into a Namespace with checked values.

    quantized: whether the program is the quantizing one; the other refuses --k_bits. `model` becomes the registry's
    name, `data_train` and `data_test` lists, `decay` an int or a list of epochs. What is not given comes from
    --template, else from the run that the call continues, else from the defaults; `notes`, lines for the log, says so.
    `given`: the names of the flags that were typed. In a test the network's file gives its other flags. Raises
    UserError for a value that cannot work; argparse exits with code 2 for a flag that does not parse.
    """
    parser = build_parser(quantized=quantized)
    defaults = vars(parser.parse_args([]))
    parsed = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults, UNGIVEN)))
    given = {name: value for name, value in vars(parsed).items() if value is not UNGIVEN}
    given = {**TEMPLATES.get(given.get("template", "."), {}), **given}
    typed = {*given, *(() if quantized else ("k_bits",))}  # the full-precision program stands for --k_bits 32
    options = argparse.Namespace(**{**defaults, **given}, given=typed, notes=[])
    _name_the_run(options)
    if found := _own_run(options, parser, quantized=quantized):
        path, stored, fixed = found
        _merge_with_run(options, given, defaults, path, stored, fixed)
    elif quantized and not options.test_only and "k_bits" not in given:
        options.notes.append("no --k_bits: full precision is what runs; give --k_bits 2 to 8 to quantize")
    options.notes += [f"warning: {_flag(name, given[name])} has no effect here" for name in _idle(options)
                      if name in given and str(given[name]).lower() != str(defaults[name]).lower()]
    check(options, quantized=quantized)
    return options


def _name_the_run(options):
    """Bring the ways to continue into two: `load`, the name of a run, and `resume`, a file or empty."""
    experiment_folder(options.save)
    if options.resume in (RESUME_OWN, "-1"):
        options.load, options.resume = options.load or options.save, ""
    elif options.resume == "0":
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
                        "to continue from the last checkpoint")
    return kept[int(number)]


def _own_run(options, parser, *, quantized):
    """(checkpoint, its options, names of those that can't change) of the run that is continued or tested; else None."""
    run = experiment_folder(options.load or options.save)
    if options.test_only:  # the network's file says what it is; a run says on which images it is tested
        weights = options.refine or options.resume or ("" if quantized else options.pre_train)
        path = best_or_last(run) if options.load or not weights else None
    else:
        path = options.resume or options.load and RunFolder(run).checkpoint
    state = path and options_in(path)
    if not state:
        return None
    stored = state["options"]
    method = METHODS.get(str(stored.get("quantizer")), METHODS["ddtb"])
    others = method_settings().keys() - method.settings.keys()
    unused = {"help", *_call_options(), *others}  # older runs kept these too
    actions = {action.dest: action for action in parser._actions if action.dest not in unused}
    stored = {name: value for name, value in stored.items() if name in actions}
    _check_stored(path, stored, actions, parser.parse_args([]))
    fixed = _network_options() | TRAINING | method_settings().keys()
    with reading_parts(path):
        if state["objective"].get("schedule", {}).get("chosen"):
            fixed |= {"dynamic_ratio", "dynamic_choice"}
        if state.get("phase") == Phase.DYNAMIC.value:
            fixed |= {"first_stage_epoch"}
    return path, {name: stored[name] for name in stored if name in IMAGES or not options.test_only}, fixed


def _network_options():
    """What makes a trained network: another value, another network."""
    return set(known_flags()) - {name for name, setting in method_settings().items() if setting.for_start}


def _idle(o):
    """The flags that change nothing in what the options ask for. A test's file says which ones of the network's do."""
    idle = COMPATIBLE.keys() - _network_options()
    idle |= {"save_gt"} if not o.save_results else set()
    idle |= {"chop_size"} if not o.chop else set()
    if o.test_only:
        idle |= {"pre_train"} if o.refine or o.resume or o.load else set()
        return sorted(idle | {"reset"} | ({"precision"} if o.backend != "torch" else set()))
    idle |= {name for record in registry.NETWORKS.values() for name in record.settings} - set(
        registry.NETWORKS[o.model].settings)
    idle |= QUANTIZED | method_settings().keys() if o.k_bits == 32 else UNQUANTIZED
    if o.quantizer != "ddtb":  # no other method has gates
        idle |= {"dynamic_ratio", "dynamic_choice"}
    idle |= {"ADAM": {"momentum"}, "SGD": {"betas", "epsilon"}, "RMSprop": {"betas"}}[o.optimizer]
    if o.refine and o.k_bits == 32:
        idle |= {"pre_train"}
    return sorted(idle)


def _call_options():
    return (CALL | COMPATIBLE.keys()) - _network_options()


def _check_stored(path, stored, actions, defaults):
    """Raise UserError, naming the file, for stored values that no flag could have given."""
    wrong = [f"{name} {value!r:.40}" for name, value in stored.items() if not _fits(value, actions[name])]
    if wrong:
        raise UserError(f"{path}: its options can't be used ({', '.join(wrong)}); give another checkpoint")
    try:
        check(argparse.Namespace(**{**vars(defaults), **stored}), quantized=True)
    except UserError as error:
        raise UserError(f"{path}: its options can't be used ({error})") from error


def _fits(value, action):
    """Whether a stored value is one that the flag could have given."""
    try:
        if action.nargs == 0:
            return value in (action.default, action.const)
        if action.choices is not None:
            return value in action.choices
        return (action.type or str)(_typed(value)) == value and value != []
    except (argparse.ArgumentTypeError, RuntimeError, TypeError, UserError, ValueError):  # a file can hold anything
        return False


def _merge_with_run(options, given, defaults, path, stored, fixed):
    """Take what is not given from the run's own options; follow or refuse what is given and differs, with a note."""
    taken = {name: stored[name] for name in sorted(stored) if name not in given}
    vars(options).update(taken)
    flags = " ".join(_flag(name, value) for name, value in taken.items() if value != defaults[name])
    if flags:
        options.notes.append(f"{path}: {flags}, as it was trained")
    idle = _idle(options)
    for name in sorted(stored.keys() & given.keys()):
        old, new = stored[name], given[name]
        if old == new:
            continue
        if name in fixed:
            remedy = f"give that instead of {_typed(new)}, or leave it out"
            if (name, old) == ("k_bits", 32):
                remedy = "quantize it in a run of its own, with --pre_train and another --save"
            raise UserError(f"{path}: was trained with {_flag(name, old)}; {remedy}")
        if not options.test_only and name not in idle:
            effect = "has no effect, the run has its start already" if name in START else "followed from now on"
            options.notes.append(f"{_flag(name, new)}: {effect}; {path} was trained with {_typed(old) or 'none'}")


def _flag(name, value):
    """A flag as it is typed."""
    name = "compile" if name == "compiler" else name
    return f"--{name}" if value is True else f"--{name} {_typed(value)}"


def _typed(value):
    """A value as it is typed after its flag."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    joint = "," if isinstance(value, tuple) else "-" if all(isinstance(item, int) for item in value) else "+"
    return joint.join(map(str, value))


def run_options(options: Namespace) -> dict[str, Any]:
    """What a checkpoint keeps of the options: those that a run has, not a call, as plain values."""
    return {name: value for name, value in vars(options).items() if name not in {*_call_options(), *BESIDES}}


def build_parser(*, quantized: bool) -> ArgumentParser:
    """The argparse parser with every flag."""
    what = "Quantize a network with DDTB, or test a quantized one." if quantized else \
        "Train a full-precision network, or test one."
    parser = argparse.ArgumentParser(description=what, formatter_class=_Formatter)
    groups = {"Hardware": _hardware, "Data": _data, "Model": _model, "Quantization": _quantization,
              "Training": _training, "Optimization": _optimization, "Loss": _loss, "Log": _log}
    for title, add_flags in groups.items():
        add_flags(parser.add_argument_group(title).add_argument)
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _get_help_string(self, action):
        switch = isinstance(action.default, bool)  # 0 is a default worth telling, and equals False
        if switch or action.default in (None, "", ".") or action.help == COMPATIBILITY:
            return action.help
        return super()._get_help_string(action)


def _hardware(add):
    add("--n_threads", type=int, default=6, help="worker processes that load training images")
    add("--cpu", action="store_true", help="run on the CPU, also where there is a GPU")
    add("--gpu_id", type=int, default=0, help="number of the CUDA device")
    add("--n_GPUs", type=int, default=1, help="number of GPUs; for more than one start with torchrun")
    add("--deterministic", action="store_true", help="on CUDA: repeat runs bit for bit, slower; the CPU does so anyway")
    add("--seed", type=int, default=1, help="seed of everything random")
    add("--template", default=".",
        help="EDSR_paper: --n_resblocks 32 --n_feats 256 --res_scale 0.1, where these are not given")


def _data(add):
    add("--dir_data", default="dataset/sr_data", help="folder that holds DIV2K/ and benchmark/")
    add("--dir_demo", default="../test", help="folder of images for --data_test Demo")
    add("--data_train", type=_sets, default="DIV2K", help="training sets, joined with +")
    add("--data_test", type=_sets, default="Set5", help="test sets, joined with +; the first chooses the best network")
    add("--data_range", default="1-800/801-810",
        help="images for training/testing, from 1; a range a set, as 1-800+1-2650/801-810, a set without one gives all")
    add("--ext", default="sep", choices=("img", "sep", "sep_reset"),
        help="img: decode images when needed; sep: keep decoded copies; sep_reset: make them anew")
    add("--patch_size", type=int, default=192, help="training patch in HR pixels")
    add("--no_augment", action="store_true", help="no random flips and turns of training patches")
    add("--chop", action="store_true", help="test in overlapping tiles, to save memory")
    add("--chop_size", type=int, default=256, help="longest side of a tile in LR pixels")


def _model(add):
    add("--model", type=lambda text: registry.find(text).name, default="EDSR",
        help="EDSR, RDN or SRResNet (also called bnsrresnet)")
    add("--pre_train", default="",
        help="full-precision weights to start from, and the teacher's; of another scale: all but the upsampler")
    add("--init", default="random", choices=("random", "interpolation"),
        help="full precision: weights before training; interpolation: the network begins as bilinear enlargement, for "
             "short training")
    add("--refine", default="", help="weights to test, or to train further: a file or a run's folder")
    for name, setting in SETTINGS.items():
        kind: Any = _scale if name == "scale" else number if setting.kind is float else setting.kind
        add(f"--{name}", type=kind, default=setting.default, help=setting.help)
    add("--precision", default="single", choices=("single", "half"),
        help="arithmetic of tests; half: 16-bit convolutions")


def _quantization(add):
    add("--k_bits", type=int, default=32, help="bits of weights and features: 2 to 8, 32 for none")
    add("--skip_bits", type=int, default=0,
        help="bits of the features that feed a sum and no convolution, 2 to 8 (EDSR, RDN); 0: those of --k_bits, as "
             "published")
    add("--dynamic_ratio", type=float, default=0.1, help="share of quantizers whose gate is used, 0 to 1")
    add("--quantizer", default="ddtb", choices=tuple(METHODS),
        help="the method; others than ddtb are for comparison: PAMS, PACT, DoReFa, moving min and max")
    for name, own in method_settings().items():
        add(f"--{name}", default=own.values[0], choices=own.values, help=own.help)
    add("--dynamic_choice", default="variance", choices=("variance", "random"),
        help="ddtb: which gates are used: those of the most varying ranges; random: drawn by --seed, an ablation")
    add("--first_stage_epoch", type=int, default=FIRST_STAGE_EPOCH,
        help="ddtb: first epoch whose gates are applied; 2: no staged start, an ablation")


def _training(add):
    add("--reset", action="store_true", help="delete the run that --save names before starting")
    add("--test_every", type=int, default=1000, help="batches in an epoch")
    add("--epochs", type=int, default=60, help="epochs to train")
    add("--batch_size", type=int, default=16, help="patches in a batch, over all processes")
    add("--test_only", action="store_true", help="test and stop")
    add("--backend", default="torch", choices=("torch", "onnx", "openvino"),
        help="what runs the network in tests; onnx, openvino: ONNX Runtime or OpenVINO, on a file of quant.export that "
             "--refine names (openvino: of its --format qdq)")
    add("--amp", default="off", choices=("off", "bf16", "fp16"),
        help="16-bit convolutions in training; quantizers and losses stay in 32 bit")
    add("--compile", dest="compiler", action="store_const", const="inductor",
        help="torch.compile the forward and backward passes of training steps: minutes first, for GPUs")
    add("--self_ensemble", action="store_true", help="test with 8 flips and turns, averaged")
    for flag, default in COMPATIBLE.items():
        if flag in SETTINGS:  # a network that somebody added has it
            continue
        how: Any = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        add(f"--{flag}", help=COMPATIBILITY, **how)


def _optimization(add):
    add("--lr", type=float, default=1e-4, help="learning rate")
    add("--bound_lr", type=float, default=BOUND_LR, help="learning rate of trained bounds (default: %(default)s)")
    add("--decay", type=_decay, default="10", help="epochs between decays, or epochs joined with -, as 200-400")
    add("--gamma", type=float, default=0.5, help="factor of a decay")
    add("--optimizer", default="ADAM", choices=("SGD", "ADAM", "RMSprop"), help="optimizer")
    add("--momentum", type=float, default=0.9, help="momentum (SGD)")
    add("--betas", type=_pair, default=(0.9, 0.999), help="two factors joined with a comma (ADAM)")
    add("--epsilon", type=float, default=1e-8, help="epsilon (ADAM, RMSprop)")
    add("--weight_decay", type=float, default=0.0, help="weight decay")
    add("--gclip", type=float, default=0.0, help="largest absolute gradient, 0 for no limit")


def _loss(add):
    add("--loss", default="1*L1",
        help="full precision: a sum of L1, MSE, VGG22, VGG54, GAN, WGAN, WGAN_GP, RGAN, as 1*L1+0.1*VGG54")
    add("--gan_k", type=int, default=1, help="steps of the discriminator in a batch")
    add("--vgg_weights", default="", help="file of VGG19's weights; without it torchvision downloads them")
    add("--w_l1", type=float, default=1.0, help="quantized: weight of L1")
    add("--w_at", type=float, default=1000.0, help="quantized: weight of attention transfer")


def _log(add):
    add("--save", default="test", help="name of the run, a folder in ../experiment")
    add("--load", default="", help="name of a run to continue, with its options where no others are given")
    add("--resume", nargs="?", const=RESUME_OWN, default="",
        help="checkpoint to continue; a number: the run's epoch that --save_models kept; alone or -1: continue the run "
             "that --save names; 0: begin")
    add("--save_models", action="store_true", help="keep the network of every epoch")
    add("--checkpoint_every", type=int, default=0, help="batches between checkpoints, 0: each epoch")
    add("--print_every", type=int, default=100, help="batches between lines of the log")
    add("--save_results", action="store_true", help="save the SR images of tests")
    add("--save_gt", action="store_true", help="with --save_results: save LR and HR too")


def _sets(text):
    return [name for name in text.split("+") if name]


def _scale(text):
    if (number := whole_number(text)) is None:
        raise UserError(f"--scale {text:.40}: one whole number is needed; a network is trained for one scale")
    return number


def _pair(text):
    try:
        first, second = (float(part) for part in text.strip("()").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not two numbers joined with a comma") from None
    return first, second


def _decay(text):
    epochs = [whole_number(part) for part in text.split("-")]
    if None in epochs or epochs != sorted(set(epochs)) or epochs[0] < 1:
        raise UserError(f"--decay {text}: give a number of epochs, as 200, or rising epochs joined with -, as 200-400")
    return epochs[0] if len(epochs) == 1 else epochs


def check(options: Namespace, *, quantized: bool) -> None:
    """Raise UserError for the first value that cannot work."""
    for flag, wrong, remedy in _rules(options, quantized):
        if wrong:
            raise UserError(f"{_flag(flag, getattr(options, flag))}: {remedy}")
    parse_ranges(options.data_range)
    parse_loss(options.loss)


def _rules(o, quantized):
    """(flag, whether it is wrong, what to do), in the order of reporting."""
    yield "template", o.template not in TEMPLATES, "unknown; choose EDSR_paper, or give the flags it stands for"
    for name, setting in SETTINGS.items():
        problem = setting.problem(getattr(o, name))
        yield name, problem, problem
    yield "k_bits", o.k_bits not in (*range(2, 9), 32), "choose 2 to 8, or 32 for full precision"
    yield "k_bits", o.k_bits != 32 and not quantized, "only main_limitrange_incremental.py quantizes; run that"
    yield "epochs", o.epochs == 0, ("EDSR-PyTorch trains without end then; give a number, a stopped run is continued "
                                    "with --load NAME and more of them")
    continues = bool(o.load or o.resume) and not o.test_only
    yield "reset", o.reset and continues, "begins anew, --load and --resume continue; give one of them"
    if o.reset and not o.test_only:
        run = experiment_folder(o.save).resolve()
        for flag in ("pre_train", "refine"):
            place = Path(getattr(o, flag) or os.devnull).resolve()
            within = run in (place, place.parent) or place.parent == run / "model"
            yield "reset", within, f"would delete what --{flag} names; give another --save, or leave it out"
    for flag in ("patch_size", "epochs", "batch_size", "test_every", "print_every", "gan_k", "n_GPUs"):
        yield flag, getattr(o, flag) < 1, "give 1 or more"
    for flag, most in CEILINGS.items():
        yield flag, getattr(o, flag) > most, f"give {most} or less"
    yield "chop_size", o.chop_size < 32, "give 32 or more"
    exported = o.backend != "torch"
    yield "backend", exported and not o.test_only, "only tests run an exported network; add --test_only"
    yield "backend", exported and not o.refine, "give the exported file, as --refine FILE.onnx"
    yield "chop", exported and o.chop, "tiles are the torch backend's; python -m quant.upscale has its own"
    yield "seed", o.seed >= 2**63, "give less than 2**63"
    for flag in ("n_threads", "checkpoint_every", "gpu_id", "seed"):
        yield flag, getattr(o, flag) < 0, "give 0 or more"
    for flag in ("w_l1", "w_at", "weight_decay", "gclip", "momentum"):
        yield flag, not 0 <= getattr(o, flag) < math.inf, "give a finite number, 0 or more"
    for flag in ("lr", "bound_lr", "gamma", "epsilon"):
        yield flag, not 0 < getattr(o, flag) < math.inf, "give a finite number above 0"
    yield "init", o.init != "random" and o.k_bits != 32, "starts full precision; quantized networks take --pre_train"
    yield "init", o.init != "random" and bool(o.refine), "--refine brings all weights; give one of them"
    yield "betas", not all(0 <= beta < 1 for beta in o.betas), "give two numbers in 0..1, as 0.9,0.999"
    yield "patch_size", o.patch_size < o.scale, f"is less than one LR pixel at --scale {o.scale}; give more"
    full = o.k_bits == 32 and not o.test_only  # what is tested says its own bits
    yield "quantizer", o.quantizer != "ddtb" and full, "quantizes nothing at --k_bits 32; give 2 to 8"
    yield "skip_bits", o.skip_bits not in (0, *range(2, 9)), "choose 2 to 8, or 0 for --k_bits"
    yield "skip_bits", o.skip_bits and full, "quantizes nothing at --k_bits 32; give 2 to 8"
    yield "skip_bits", o.skip_bits and o.model == "srresnet", "SRResNet's skips are not quantized; leave the flag out"
    for flag, setting in method_settings().items():
        owner = next(name for name, method in METHODS.items() if flag in method.settings)
        yield flag, flag not in METHODS[o.quantizer].settings and getattr(o, flag) != setting.values[0], \
            f"is {owner}'s; --quantizer {o.quantizer} has no such setting"
    yield "first_stage_epoch", o.first_stage_epoch < 2, "give 2 or more, epoch 1 calibrates"
    yield "dynamic_ratio", not 0 <= o.dynamic_ratio <= 1, "give a share, 0 to 1"
    yield "data_test", not o.data_test, "name a test set"
    yield "data_train", not o.data_train and not o.test_only, "name a training set"


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


def config_text(options: Namespace) -> str:
    """`name: value` lines, sorted, for config.txt."""
    return "\n".join(f"{name}: {value}" for name, value in sorted(vars(options).items()) if name not in BESIDES)
