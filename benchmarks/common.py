"""What the benchmarks of steps and forwards share: networks as the programs build them, time by turns, peak memory."""

import argparse
import copy
import json
import os
import statistics
import time
from types import SimpleNamespace

import torch
from torch.profiler import ProfilerActivity, profile

import loss
import model
from engine.optimizer import build_optimizer
from loss.supervised import Supervised
from option import parse_options
from quant import QuantConfig, Schedule, quantize
from quant.distill import Distillation, parameter_groups
from trainer import Trainer

# the share of dynamic quantizers that each network is published with
DYNAMIC_RATIOS = {"edsr": 0.3, "srresnet": 0.1, "rdn": 0.5}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FIRST_DYNAMIC_EPOCH = 6


def argument_parser(description, *, repeats, patch_size, batch_size=4):
    """A parser with the flags that the benchmarks have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="all", choices=(*DYNAMIC_RATIOS, "all"), help="network (default: each in turn)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device (default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count(), help="threads on the CPU (default: %(default)s)")
    add("--repeats", type=int, default=repeats, help="how often each candidate runs (default: %(default)s)")
    add("--clock", default="wall", choices=CLOCKS,
        help="cpu: this process's CPU time, which programs beside it disturb less; for --threads 1 (default: wall)")
    add("--batch_size", type=int, default=batch_size, help="images in a batch (default: %(default)s)")
    add("--patch_size", type=int, default=patch_size, help="HR pixels a side (default: %(default)s)")
    add("--scale", type=int, default=4, help="HR over LR (default: %(default)s)")
    add("--k_bits", type=int, default=4, help="bits of the quantized network (default: %(default)s)")
    add("--amp", default="off", help="as the programs have it (default: %(default)s)")
    add("--compile", action="store_true", help="as the programs have it")
    add("--json", action="store_true", help="print one JSON object a line")
    return parser


def models(args):
    """The names of the networks that the arguments ask for."""
    return list(DYNAMIC_RATIOS) if args.model == "all" else [args.model]


def prepare(name, args):
    """Everything that steps and forwards need, with random weights; the quantized network is in its calibration epoch.

    Has .device, .batch (lr, hr), .teacher, .objective (the quantized network's), and a trainer.Trainer each for the
    full-precision and the quantized network: .full and .low.
    """
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    options = parse_options(
        ["--model", name, "--scale", str(args.scale), "--k_bits", str(args.k_bits), "--amp", args.amp,
         "--batch_size", str(args.batch_size), "--patch_size", str(args.patch_size),
         *["--compile"][: args.compile]], quantized=True)
    device = torch.device(args.device)
    full = model.build(options).to(device)
    low = quantize(copy.deepcopy(full), QuantConfig(options.k_bits))
    teacher = copy.deepcopy(full).eval()
    supervised = Supervised(loss.build(options.loss, rgb_range=255, patch_size=args.patch_size, device=device),
                            compiler=options.compiler)
    distillation = Distillation(teacher, Schedule(low, dynamic_ratio=DYNAMIC_RATIOS[name]),
                                compiler=options.compiler)
    supervised.start_epoch(full, 1)
    distillation.start_epoch(low, 1)
    size = args.patch_size // args.scale
    brightness = torch.linspace(0.5, 1, args.batch_size).view(-1, 1, 1, 1)  # ranges vary between the images
    lr = (torch.rand(args.batch_size, 3, size, size) * brightness * 255).to(device)
    hr = (torch.rand(args.batch_size, 3, size * args.scale, size * args.scale) * 255).to(device)
    return SimpleNamespace(device=device, batch=(lr, hr), teacher=teacher, objective=distillation,
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
    prepared.objective.start_epoch(prepared.low.network, FIRST_DYNAMIC_EPOCH)


def milliseconds(candidates, *, device, repeats, clock="wall"):
    """Median milliseconds of each candidate of {name: function}; they take turns, two first rounds are not counted."""
    now = CLOCKS[clock]
    spent = {name: [] for name in candidates}
    for round_number in range(-2, repeats):
        for name, run in candidates.items():
            start = now()
            run()
            if device.type == "cuda":
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
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell stderr of each start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def result(bench, name, device, ms, floor_ms, peak_ratio):
    """One benchmark's object, as --json prints it."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"bench": bench, "model": name, "device": where, "ratio": round(ms / floor_ms, 3),
            "floor_ms": round(floor_ms, 2), "ms": round(ms, 2), "peak_mb_ratio": round(peak_ratio, 3)}


def show(one, as_json):
    """Print a result as a line."""
    if as_json:
        print(json.dumps(one), flush=True)
    else:
        print("{bench:13} {model:9} {device:5} {ms:9.1f} ms, floor {floor_ms:9.1f} ms: {ratio:.3f}x; "
              "peak memory {peak_mb_ratio:.2f}x".format(**one), flush=True)
