"""Cost of a quantized training step and of a calibration batch, beside full precision in the same run.

python benchmarks/train_step.py [--model edsr] [--batch_size 4 --patch_size 96] [--device cpu] [--repeats 15] [--json]

train_step: Trainer's own step with gates applied; its floor: the teacher's forward plus Trainer's full-precision step.
calibration: a batch of the first epoch; its floor: the full-precision forward. Each is the median of runs in which the
two take turns. peak_mb_ratio: memory held at a time by the quantized step (calibration batch) over the same of the
full-precision step (forward), both above weights and optimizer state, gradients counted. On CUDA --json says of the
quantized step whether it waits for the device, "waits", as torch.cuda.set_sync_debug_mode finds it.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (  # noqa: E402
    argument_parser,
    milliseconds,
    models,
    peak_bytes,
    prepare,
    result,
    show,
    start_dynamic,
)


def measure(name, args):
    """The results of one network, calibration first."""
    prepared = prepare(name, args)
    yield compare("calibration", name, prepared, args, *calibration(prepared))
    start_dynamic(prepared)
    quantized, full = steps(prepared)
    yield {**compare("train_step", name, prepared, args, quantized, full, beside=teacher_forward(prepared)),
           **({"waits": waits(quantized)} if prepared.device.type == "cuda" else {})}


def compare(bench, name, prepared, args, quantized, full, beside=None):
    """One result; `beside` is run with `full` where the floor is both."""
    def floor():
        if beside is not None:
            beside()
        full()

    peaks = [peak_bytes(run, prepared.device) for run in (quantized, full)]
    ms = milliseconds({"floor": floor, "quantized": quantized}, device=prepared.device, repeats=args.repeats,
                      clock=args.clock)
    return result(bench, name, prepared.device, ms["quantized"], ms["floor"], peaks[0] / peaks[1])


def calibration(prepared):
    """(a calibration batch, a full-precision forward), as functions."""
    lr, _ = prepared.batch

    def full():
        with torch.no_grad():
            prepared.teacher(lr)

    return lambda: prepared.low._step(*prepared.batch), full


def steps(prepared):
    """(a quantized step, a full-precision step), as functions that leave no gradients behind."""
    def step(trainer):
        trainer._step(*prepared.batch)
        trainer.optimizer.zero_grad(set_to_none=True)

    return lambda: step(prepared.low), lambda: step(prepared.full)


def teacher_forward(prepared):
    """The teacher's whole forward, as a function."""
    return calibration(prepared)[1]


def waits(step):
    """Whether a step, run once before, makes the host wait for the CUDA device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def main(argv=None):
    args = argument_parser(__doc__, repeats=15, patch_size=96).parse_args(argv)
    for name in models(args):
        for one in measure(name, args):
            show(one, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
