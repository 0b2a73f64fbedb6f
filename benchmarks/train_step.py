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

from benchmarks import common  # noqa: E402
from utility import run_main  # noqa: E402


def measure(name, args):
    """The results of one network, calibration first."""
    prepared = common.prepare(name, args)

    def forward():
        with torch.no_grad():
            prepared.teacher(prepared.batch[0])

    def step(trainer):
        trainer.step(*prepared.batch)
        trainer.optimizer.zero_grad(set_to_none=True)  # the memory of the next step counts them

    def quantized():
        step(prepared.low)

    yield common.compare("calibration", prepared, lambda: prepared.low.step(*prepared.batch), forward)
    common.start_dynamic(prepared)
    one = common.compare("train_step", prepared, quantized, lambda: step(prepared.full), beside=forward)
    yield {**one, "waits": waits(quantized)} if prepared.device.type == "cuda" else one


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
    args = common.step_parser(__doc__, repeats=15, patch_size=96).parse_args(argv)
    for name in common.models(args):
        for one in measure(name, args):
            common.show(one, args.json, common.step_line)


if __name__ == "__main__":
    sys.exit(run_main(main))
