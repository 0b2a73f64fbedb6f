"""Cost of a quantized network's forward in test mode, beside the full-precision network's in the same run.

python benchmarks/test_forward.py [--model edsr] [--patch_size 480 --scale 4] [--device cpu] [--repeats 15] [--json]

One LR image of patch_size/scale pixels a side; medians of runs in which the two take turns. peak_mb_ratio: memory held
at a time above the weights.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import common  # noqa: E402
from utility import run_main  # noqa: E402


def measure(name, args):
    """The result of one network."""
    prepared = common.prepare(name, args)
    common.start_dynamic(prepared)
    lr, _ = prepared.batch
    low = prepared.low.network.eval()
    with torch.no_grad():
        return common.compare("test_forward", prepared, lambda: low(lr), lambda: prepared.teacher(lr))


def main(argv=None):
    args = common.step_parser(__doc__, repeats=15, patch_size=480, batch_size=1).parse_args(argv)
    for name in common.models(args):
        common.show(measure(name, args), args.json, common.step_line)


if __name__ == "__main__":
    sys.exit(run_main(main))
