"""What the benchmarks share: flags, networks as the programs build them, time by turns, peak memory."""

import argparse
import contextlib
import copy
import json
import math
import os
import statistics
import time
from types import SimpleNamespace

import torch
from torch.profiler import ProfilerActivity, profile

import loss
import model
from engine.optimizer import build_optimizer
from examples.budgets import RATIOS
from loss.supervised import Supervised
from option import parse_options
from quant import QuantConfig, Schedule, quantize
from quant.distill import Distillation, parameter_groups
from quant.open import load_weights
from quant.schedule import FIRST_STAGE_EPOCH
from trainer import Trainer

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CHOICES = {"model": (*RATIOS, "all"), "clock": CLOCKS}
HELP = {
    "model": "network; all: each in turn",
    "device": "torch device",
    "threads": "threads on the CPU",
    "repeats": "how often each candidate runs",
    "clock": "cpu: this process's CPU time, which programs beside it disturb less; for --threads 1",
    "batch_size": "images in a batch",
    "patch_size": "HR pixels a side",
    "scale": "HR over LR",
    "height": "rows of the input; by default a DIV2K image's",
    "width": "columns of the input",
    "images": "how many images there are",
    "patches": "patches in a run, made whole batches",
    "runs": "how often each candidate runs",
    "k_bits": "bits of the quantized network",
    "amp": "as the programs have it",
    "compile": "as the programs have it",
    "json": "print one JSON object a line",
}


def argument_parser(description, **defaults):
    """A parser with --json and a flag of HELP for each of `defaults`, {name: default}."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**defaults, "json": False}.items():
        type_of = usable if name == "device" else str if isinstance(default, str) else positive(type(default))
        kind = {"action": "store_true"} if default is False else {"type": type_of, "choices": CHOICES.get(name)}
        parser.add_argument(f"--{name}", default=default, help=f"{HELP[name]} (default: %(default)s)", **kind)
    return parser


def positive(kind):
    """A function from text to a finite number above 0 of a kind, int or float, for argparse."""
    def read(text):
        with contextlib.suppress(ValueError):
            if 0 < kind(text) < math.inf:
                return kind(text)
        raise argparse.ArgumentTypeError(f"{text}: give {'1 or more' if kind is int else 'a number above 0'}")

    return read


def usable(device):
    """The name of a torch device that is there, for argparse."""
    with contextlib.suppress(RuntimeError, AssertionError):
        torch.empty(0, device=device)
        return device
    raise argparse.ArgumentTypeError(f"{device}: is no device here; give cpu")


def step_parser(description, *, repeats, patch_size, batch_size=4):
    """The parser of benchmarks of steps and forwards."""
    return argument_parser(description, model="all", device="cuda" if torch.cuda.is_available() else "cpu",
                           threads=os.cpu_count(), repeats=repeats, clock="wall", batch_size=batch_size,
                           patch_size=patch_size, scale=4, k_bits=4, amp="off", compile=False)


def models(args):
    """The names of the networks that the arguments ask for."""
    return list(RATIOS) if args.model == "all" else [args.model]


def built(name, args, *flags, weights=None):
    """(options, full precision, quantized) as the programs build a network by its flags.

    weights: a full-precision file whose weights both get; random ones where it is None or not there.
    """
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    options = parse_options(["--model", name, "--scale", str(args.scale), "--k_bits", str(args.k_bits), *flags],
                            quantized=True)
    full = model.build(options)
    if weights is not None and weights.is_file():
        load_weights(full, weights, "weights")
    return options, full, quantize(copy.deepcopy(full), QuantConfig(options.k_bits))


def prepare(name, args):
    """Everything that steps and forwards need, with random weights; the quantized network is in its calibration epoch.

    Has .name, .args, .device, .batch (lr, hr), .teacher, .objective (the quantized network's), and a trainer.Trainer
    each for the full-precision and the quantized network: .full and .low.
    """
    options, full, low = built(name, args, "--amp", args.amp, "--batch_size", str(args.batch_size), "--patch_size",
                               str(args.patch_size), *["--compile"][: args.compile])
    device = torch.device(args.device)
    full, low = full.to(device), low.to(device)
    teacher = copy.deepcopy(full).eval()
    compiler = "inductor" if options.compile else None
    supervised = Supervised(loss.build(options.loss, rgb_range=255, patch_size=args.patch_size, device=device),
                            compiler=compiler)
    distillation = Distillation(teacher, Schedule(low, dynamic_ratio=RATIOS[name]), compiler=compiler)
    supervised.start_epoch(full, 1)
    distillation.start_epoch(low, 1)
    size = args.patch_size // args.scale
    brightness = torch.linspace(0.5, 1, args.batch_size).view(-1, 1, 1, 1)  # ranges vary between the images
    lr = (torch.rand(args.batch_size, 3, size, size) * brightness * 255).to(device)
    hr = (torch.rand(args.batch_size, 3, size * args.scale, size * args.scale) * 255).to(device)
    return SimpleNamespace(name=name, args=args, device=device, batch=(lr, hr), teacher=teacher, objective=distillation,
                           full=_trainer(full, supervised, list(full.parameters()), device, options),
                           low=_trainer(low, distillation, parameter_groups(low), device, options))


def _trainer(network, objective, groups, device, options):
    return Trainer(network, objective, loader=None, optimizer=build_optimizer(groups), scheduler=None, evaluator=None,
                   recorder=None, run=None, device=device, epochs=1, amp=options.amp)


def start_dynamic(prepared):
    """Calibrate on the batch's images and go on to the phase of most epochs: gates applied, train mode."""
    lr, hr = prepared.batch
    for image in range(len(lr)):
        prepared.objective.losses(prepared.low.network, lr[image : image + 1], hr[image : image + 1])
    prepared.objective.start_epoch(prepared.low.network, FIRST_STAGE_EPOCH)


def milliseconds(candidates, *, repeats, device=None, clock="wall"):
    """Median milliseconds of each candidate of {name: function}; they take turns, two first rounds are not counted."""
    now = CLOCKS[clock]
    spent = {name: [] for name in candidates}
    for round_number in range(-2, repeats):
        for name, run in candidates.items():
            start = now()
            run()
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_number >= 0:
                spent[name].append(1000 * (now() - start))
    return {name: statistics.median(values) for name, values in spent.items()}


def peak_bytes(run, device):
    """The most memory that `run` holds at a time above what torch had allocated before it; the second call counts."""
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profiled(device, profile_memory=True) as recorded:
        run()
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def profiled(device, **settings):
    """torch.profiler.profile of what the CPU and the device do."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it tells stderr of each start and stop
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    return profile(activities=activities, **settings)


def compare(bench, prepared, quantized, full, *, beside=None):
    """The result of two functions, as --json prints it; the floor of the time is `full`, and `beside` if there is one.

    The memory is compared with that of `full` alone.
    """
    def floor():
        if beside is not None:
            beside()
        full()

    device, args = prepared.device, prepared.args
    peaks = [peak_bytes(run, device) for run in (quantized, full)]
    ms = milliseconds({"floor": floor, "quantized": quantized}, device=device, repeats=args.repeats, clock=args.clock)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"bench": bench, "model": prepared.name, "device": where, "ratio": round(ms["quantized"] / ms["floor"], 3),
            "floor_ms": round(ms["floor"], 2), "ms": round(ms["quantized"], 2),
            "peak_mb_ratio": round(peaks[0] / peaks[1], 3)}


def show(one, as_json, text):
    """Print a result: as a JSON object, or what the function `text` makes of it."""
    print(json.dumps(one) if as_json else text(one), flush=True)


def step_line(one):
    """What `compare` found, as a line."""
    return ("{bench:13} {model:9} {device:5} {ms:9.1f} ms, floor {floor_ms:9.1f} ms: {ratio:.3f}x; "
            "peak memory {peak_mb_ratio:.2f}x").format_map(one)
