"""The command line of both entry points: flags in EDSR-PyTorch's groups, and checks across them.

Every flag of EDSR-PyTorch is accepted; one that has no effect here says so in `--help`.
"""

import argparse
import math
import re
from pathlib import Path

from loss import parse as parse_loss
from utility import UserError

EXPERIMENT_ROOT = Path("..") / "experiment"
MODELS = {"edsr": "edsr", "rdn": "rdn", "srresnet": "srresnet", "bnsrresnet": "srresnet"}
COMPATIBILITY = "accepted for compatibility only, no effect"


def parse_options(argv=None, *, quantized):
    """Parse `argv` (default: sys.argv) into a Namespace with checked values.

    quantized: whether the program is the quantizing one; it changes the description alone. `model` becomes the
    registry's name, `data_train` and `data_test` lists, `decay` an int or a list of epochs. Raises UserError for a
    value that cannot work; argparse itself exits with code 2 for a flag that does not parse.
    """
    options = build_parser(quantized=quantized).parse_args(argv)
    options.model = _model(options.model)
    for name in ("data_train", "data_test"):
        setattr(options, name, [part for part in getattr(options, name).split("+") if part])
    options.decay = _decay(options.decay)
    options.betas = tuple(options.betas)
    parse_loss(options.loss)
    if options.resume in (RESUME_OWN, "-1"):
        options.load, options.resume = options.load or options.save, ""
    elif options.resume == "0":
        options.resume = ""
    check(options)
    return options


# what a bare --resume means: continue the run that --save names
RESUME_OWN = "the run of --save"


def build_parser(*, quantized):
    """The argparse parser with every flag."""
    what = "Quantize a network with DDTB, or test a quantized one." if quantized else \
        "Train a full-precision network, or test one."
    parser = argparse.ArgumentParser(description=what, formatter_class=_Formatter)
    for add in (_hardware, _data, _model_flags, _quantization, _training, _optimization, _log):
        add(parser)
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=32, width=110)

    def _get_help_string(self, action):
        if action.default in (None, "", False) or COMPATIBILITY in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def _hardware(parser):
    group = parser.add_argument_group("Hardware")
    group.add_argument("--n_threads", type=int, default=6, help="worker processes that load training images")
    group.add_argument("--cpu", action="store_true", help="run on the CPU, also where there is a GPU")
    group.add_argument("--gpu_id", type=int, default=0, help="number of the CUDA device")
    group.add_argument("--n_GPUs", type=int, default=1, help="number of GPUs; for more than one start with torchrun")
    group.add_argument("--deterministic", action="store_true",
                       help="on CUDA: repeat runs bit for bit, slower; the CPU does so anyway")
    group.add_argument("--seed", type=int, default=1, help="seed of everything random")
    group.add_argument("--debug", action="store_true", help=COMPATIBILITY)
    group.add_argument("--template", default=".", help=COMPATIBILITY)


def _data(parser):
    group = parser.add_argument_group("Data")
    group.add_argument("--dir_data", default="dataset/sr_data", help="folder that holds DIV2K/ and benchmark/")
    group.add_argument("--dir_demo", default="../test", help="folder of images for --data_test Demo")
    group.add_argument("--data_train", default="DIV2K", help="training sets, joined with +")
    group.add_argument("--data_test", default="Set5", help="test sets, joined with +, the first one chooses the best")
    group.add_argument("--data_range", default="1-800/801-810", help="DIV2K images for training/testing, from 1")
    group.add_argument("--ext", default="sep", choices=("img", "sep", "sep_reset"),
                       help="img: decode images when needed; sep: keep decoded copies; sep_reset: make them anew")
    group.add_argument("--scale", type=_int("--scale"), default=4, help="magnification: 2, 3 or 4")
    group.add_argument("--patch_size", type=int, default=192, help="training patch in HR pixels")
    group.add_argument("--rgb_range", type=_number, default=255, help="largest pixel value inside the program")
    group.add_argument("--n_colors", type=int, default=3, help="colour channels: 3, or 1 for luma alone")
    group.add_argument("--no_augment", action="store_true", help="no random flips and turns of training patches")
    group.add_argument("--chop", action="store_true", help="test in overlapping tiles, to save memory")
    group.add_argument("--chop_size", type=int, default=256, help="longest side of a tile in LR pixels")


def _model_flags(parser):
    group = parser.add_argument_group("Model")
    group.add_argument("--model", default="EDSR", help="EDSR, RDN or SRResNet (also called bnsrresnet)")
    group.add_argument("--pre_train", default="", help="full-precision weights to start from, and the teacher's")
    group.add_argument("--refine", default="", help="weights to test, or to train further: a file or a run's folder")
    group.add_argument("--n_resblocks", type=int, default=16, help="residual blocks (EDSR, SRResNet)")
    group.add_argument("--n_feats", type=int, default=64, help="feature channels (EDSR, SRResNet)")
    group.add_argument("--res_scale", type=float, default=1.0, help="factor on each residual (EDSR)")
    group.add_argument("--precision", default="single", choices=("single", "half"),
                       help="arithmetic of tests; half: 16-bit convolutions")
    group.add_argument("--G0", type=int, default=64, help="feature channels (RDN)")
    group.add_argument("--RDNkSize", type=int, default=3, help="kernel size (RDN)")
    group.add_argument("--RDNconfig", default="B", choices=("A", "B"), help="blocks, convolutions, growth (RDN)")
    for name, default in (("act", "relu"), ("extend", "."), ("shift_mean", "True"), ("n_resgroups", "10"),
                          ("reduction", "16")):
        group.add_argument(f"--{name}", default=default, help=COMPATIBILITY)
    group.add_argument("--dilation", action="store_true", help=COMPATIBILITY)


def _quantization(parser):
    group = parser.add_argument_group("Quantization")
    group.add_argument("--k_bits", type=int, default=32, help="bits of weights and features: 2 to 8, 32 for none")
    group.add_argument("--dynamic_ratio", type=float, default=0.1, help="share of quantizers that get a gate, 0 to 1")
    group.add_argument("--init_bounds", default="percentile", choices=("percentile", "released"),
                       help="start of the bounds; released: percentiles at 2 bits alone, else 10")
    group.add_argument("--w_l1", type=float, default=1.0, help="weight of the L1 loss")
    group.add_argument("--w_at", type=float, default=1000.0, help="weight of attention transfer")


def _training(parser):
    group = parser.add_argument_group("Training")
    group.add_argument("--reset", action="store_true", help="delete the run that --save names before starting")
    group.add_argument("--test_every", type=int, default=1000, help="batches in an epoch")
    group.add_argument("--epochs", type=int, default=60, help="epochs to train")
    group.add_argument("--batch_size", type=int, default=16, help="patches in a batch, over all processes")
    group.add_argument("--test_only", action="store_true", help="test and stop")
    group.add_argument("--amp", default="off", choices=("off", "bf16", "fp16"),
                       help="16-bit convolutions in training; quantizers and losses stay in 32 bit")
    group.add_argument("--self_ensemble", action="store_true", help="test with 8 flips and turns, averaged")
    group.add_argument("--loss", default="1*L1", help="full precision: sum of L1, MSE, VGG22, VGG54, GAN, WGAN, "
                                                      "WGAN_GP, RGAN, e.g. 1*L1+0.1*VGG54")
    group.add_argument("--gan_k", type=int, default=1, help="discriminator steps per batch")
    group.add_argument("--vgg_weights", default="", help="file with VGG19 weights, else torchvision downloads them")
    group.add_argument("--split_batch", default="1", help=COMPATIBILITY)
    group.add_argument("--skip_threshold", default="1e8", help=COMPATIBILITY)


def _optimization(parser):
    group = parser.add_argument_group("Optimization")
    group.add_argument("--lr", type=float, default=1e-4, help="learning rate; bounds have 1e-2")
    group.add_argument("--decay", default="10", help="epochs between decays, or epochs joined with -, as 200-400")
    group.add_argument("--gamma", type=float, default=0.5, help="factor of a decay")
    group.add_argument("--optimizer", default="ADAM", choices=("SGD", "ADAM", "RMSprop"), help="optimizer")
    group.add_argument("--momentum", type=float, default=0.9, help="momentum (SGD)")
    group.add_argument("--betas", type=_pair, default=(0.9, 0.999), help="two factors joined with a comma (ADAM)")
    group.add_argument("--epsilon", type=float, default=1e-8, help="epsilon (ADAM, RMSprop)")
    group.add_argument("--weight_decay", type=float, default=0.0, help="weight decay")
    group.add_argument("--gclip", type=float, default=0.0, help="largest absolute gradient, 0 for no limit")


def _log(parser):
    group = parser.add_argument_group("Log")
    group.add_argument("--save", default="test", help="name of the run, a folder in ../experiment")
    group.add_argument("--load", default="", help="name of a run to continue")
    group.add_argument("--resume", nargs="?", const=RESUME_OWN, default="",
                       help="checkpoint to continue; alone or -1: continue the run that --save names; 0: begin")
    group.add_argument("--save_models", action="store_true", help="keep the network of every epoch")
    group.add_argument("--checkpoint_every", type=int, default=0, help="batches between checkpoints, 0: each epoch")
    group.add_argument("--print_every", type=int, default=100, help="batches between lines of the log")
    group.add_argument("--save_results", action="store_true", help="save the SR images of tests")
    group.add_argument("--save_gt", action="store_true", help="with --save_results: save LR and HR too")


def _int(flag):
    def parse(text):
        if not re.fullmatch(r"[+-]?\d+", text):
            raise UserError(f"{flag} {text}: one whole number is needed; a network is trained for one scale")
        return int(text)

    return parse


def _number(text):
    value = float(text)
    return int(value) if value.is_integer() else value


def _pair(text):
    first, second = (float(part) for part in text.strip("()").split(","))
    return first, second


def _model(text):
    if text.lower() not in MODELS:
        raise UserError(f"--model {text}: unknown; choose EDSR, RDN or SRResNet")
    return MODELS[text.lower()]


def _decay(text):
    parts = text.split("-")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"--decay {text}: give a number of epochs, as 200, or epochs joined with -, as 200-400")
    epochs = [int(part) for part in parts]
    return epochs[0] if len(epochs) == 1 else epochs


def check(options):
    """Raise UserError for the first value that cannot work."""
    for flag, wrong, remedy in _rules(options):
        if wrong:
            raise UserError(f"--{flag} {getattr(options, flag)}: {remedy}")


def _rules(o):
    """(flag, whether it is wrong, what to do), in the order of reporting."""
    yield "scale", o.scale not in (2, 3, 4), "choose 2, 3 or 4"
    yield "k_bits", o.k_bits not in (*range(2, 9), 32), "choose 2 to 8, or 32 for full precision"
    for flag in ("patch_size", "epochs", "batch_size", "test_every", "print_every", "n_resblocks", "n_feats", "G0",
                 "gan_k", "n_GPUs"):
        yield flag, getattr(o, flag) < 1, "give 1 or more"
    for flag in ("n_threads", "checkpoint_every", "gpu_id", "seed"):
        yield flag, getattr(o, flag) < 0, "give 0 or more"
    for flag in ("w_l1", "w_at", "weight_decay", "gclip", "momentum"):
        value = getattr(o, flag)
        yield flag, not (math.isfinite(value) and value >= 0), "give a finite number, 0 or more"
    for flag in ("lr", "gamma", "rgb_range", "epsilon", "res_scale"):
        value = getattr(o, flag)
        yield flag, not (math.isfinite(value) and value > 0), "give a finite number above 0"
    yield "betas", not all(0 <= beta < 1 for beta in o.betas), "give two numbers in 0..1, as 0.9,0.999"
    yield "patch_size", o.patch_size < o.scale, f"is less than one LR pixel at --scale {o.scale}; give more"
    yield "dynamic_ratio", not 0 <= o.dynamic_ratio <= 1, "give a share, 0 to 1"
    yield "RDNkSize", o.RDNkSize < 1 or o.RDNkSize % 2 == 0, "give an odd number"
    yield "n_colors", o.n_colors not in (1, 3), "choose 3 or 1"
    yield "data_range", not _is_range(o.data_range), "give training/test images, as 1-800/801-810"
    yield "data_test", not o.data_test, "name a test set"
    yield "data_train", not o.data_train and not o.test_only, "name a training set"


def _is_range(text):
    parts = re.fullmatch(r"(\d+)-(\d+)(?:/(\d+)-(\d+))?", text)
    bounds = [int(part) for part in parts.groups() if part] if parts else []
    pairs = zip(bounds[::2], bounds[1::2], strict=True)
    return bool(bounds) and all(1 <= first <= last for first, last in pairs)


def experiment_folder(name):
    """The folder of a run: `output/x`, `../experiment/output/x` and the absolute path of that are the same.

    Raises UserError for a name outside the root, ../experiment.
    """
    root = EXPERIMENT_ROOT.resolve()
    given = Path(name)
    inside = given.resolve() if given.is_absolute() or given.parts[:2] == ("..", "experiment") else \
        (root / given).resolve()
    if not name or root not in inside.parents:
        raise UserError(f"--save {name}: runs lie in {EXPERIMENT_ROOT}; give a name within it, as output/edsrx4/4bit")
    return EXPERIMENT_ROOT / inside.relative_to(root)


def config_text(options):
    """`name: value` lines, sorted, for config.txt."""
    return "\n".join(f"{name}: {value}" for name, value in sorted(vars(options).items()))
