"""Cost of a quantized network's forward in test mode, beside the full-precision network's in the same run.

python benchmarks/test_forward.py [--model edsr] [--patch_size 480 --scale 4] [--device cpu] [--repeats 15] [--json]

One LR image of patch_size/scale pixels a side; medians of runs in which the two take turns. peak_mb_ratio: memory held
at a time above the weights.
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
    """The result of one network."""
    prepared = prepare(name, args)
    start_dynamic(prepared)
    lr, _ = prepared.batch
    forwards = {"floor": prepared.teacher, "quantized": prepared.low.network.eval()}
    with torch.no_grad():
        runs = {key: lambda network=network: network(lr) for key, network in forwards.items()}
        peaks = {key: peak_bytes(run, prepared.device) for key, run in runs.items()}
        ms = milliseconds(runs, device=prepared.device, repeats=args.repeats, clock=args.clock)
    return result("test_forward", name, prepared.device, ms["quantized"], ms["floor"],
                  peaks["quantized"] / peaks["floor"])


def main(argv=None):
    args = argument_parser(__doc__, repeats=15, patch_size=480, batch_size=1).parse_args(argv)
    for name in models(args):
        show(measure(name, args), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
