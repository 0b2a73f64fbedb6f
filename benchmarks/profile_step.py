"""Where the time of a quantized training step goes, before and after.

python benchmarks/profile_step.py [--model edsr] [--batch_size 4 --patch_size 96] [--device cpu] [--repeats 5] [--json]

after: loading a batch and Trainer's own step with gates applied. before: the same with quantizers as one writes them
first (plain_fake_quantize, plain_percentiles) and images unpickled whole. The two take turns under torch.profiler.
Each row is a part of a step, forward and backward together, in milliseconds: medians over the steps; on a GPU the time
of its kernels. data: as one process loads it; workers do so beside the steps. ratio: after over before.
"""

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
from torch.profiler import record_function

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import models, prepare, profiled, show, start_dynamic, step_parser  # noqa: E402
from benchmarks.data_loading import make_images, readers, train_set  # noqa: E402
from data.loader import TrainLoader  # noqa: E402
from data.sampler import TrainSampler  # noqa: E402
from quant import distill, functional, weight  # noqa: E402
from quant.methods import ddtb  # noqa: E402
from utility import run_main  # noqa: E402

PARTS = ("convolutions", "activation quantizers", "weight quantizers", "percentiles", "recomputed in backward",
         "gates", "teacher", "losses", "optimizer", "data", "rest")
# functions whose time, with that of their backward, belongs to a part; the innermost one counts
PLACES = [
    (ddtb.DualBoundQuantizer, "forward", "activation quantizers"),
    (ddtb.Gate, "forward", "gates"),
    (weight.QuantConv2d, "quantized_weight", "weight quantizers"),
    (weight, "percentiles", "percentiles"),
    (functional, "_recompute", "recomputed in backward"),
    (distill, "attention_transfer", "losses"),
]
OPERATIONS = {"aten::conv2d": "convolutions", "aten::l1_loss": "losses"}
BACKWARD = "autograd::engine::evaluate_function: "
IMAGES = 2


def plain_fake_quantize(x, lower, upper, k_bits):
    """quant.functional.fake_quantize as one writes it first: an operation at a time, the gradient left to autograd."""
    scale = (2**k_bits - 1) / (upper - lower)
    zero = torch.round(scale * lower) + 2 ** (k_bits - 1)
    level = torch.maximum(torch.minimum(x, upper), lower) * scale - zero
    rounded = level + (torch.round(level) - level).detach()  # straight through
    return (rounded + zero) / scale


def plain_percentiles(x, *qs):
    """quant.functional.percentiles by sorting everything."""
    values = x.detach().flatten().sort().values
    positions = [q / 100 * (len(values) - 1) for q in qs]
    return [torch.lerp(values[int(position)], values[min(int(position) + 1, len(values) - 1)], position % 1)
            for position in positions]


@contextlib.contextmanager
def plain():
    """Within it quantizers run in the plain formulas, and all operands are kept for backward."""
    replacements = [
        (ddtb, "fake_quantize_parts", lambda parts, *how: plain_fake_quantize(torch.cat(parts, 1), *how)),
        (ddtb, "fake_quantize", plain_fake_quantize),
        (weight, "fake_quantize", plain_fake_quantize),
        (weight, "percentiles", plain_percentiles),
        (weight, "extremes", lambda x: (x.detach().min(), x.detach().max())),
        (weight, "recomputed", lambda *_: contextlib.nullcontext()),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, function in replacements:
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


@contextlib.contextmanager
def marked(prepared):
    """Within it the profiler sees the parts by name."""
    with contextlib.ExitStack() as stack:
        for owner, name, part in [*PLACES, (prepared.teacher, "body_feature", "teacher"),
                                  (prepared.low.optimizer, "step", "optimizer")]:
            stack.enter_context(mock.patch.object(owner, name, record_function(part)(getattr(owner, name))))
        yield


def milliseconds_by_part(events, cuda):
    """{part: milliseconds} of one step's profiler events."""
    part_of_sequence = {event.sequence_nr: part for event in events
                        if event.sequence_nr >= 0 and (part := _part(event, {}))}
    spent = dict.fromkeys(PARTS, 0.0)
    for event in events:
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[_part(event, part_of_sequence) or "rest"] += microseconds / 1000
    return spent


def _part(event, part_of_sequence):
    """The part that an event belongs to, or None; backward belongs to its forward's."""
    named = None
    while event is not None:
        if event.name in PARTS:
            return event.name
        if event.name.startswith(BACKWARD):
            return named or part_of_sequence.get(event.sequence_nr)
        named = OPERATIONS.get(event.name, named)
        event = event.cpu_parent
    return named


def batches(pairs, read, args):
    """An endless iterator over batches (lr, hr, names)."""
    loader = TrainLoader(train_set(pairs, read, args), TrainSampler(len(pairs), seed=1, batch_size=args.batch_size,
                                                                    n_batches=1), n_threads=0)
    while True:
        yield from loader


def measure(name, args, folder):
    """The result of one network, as --json prints it; its two columns are {part: milliseconds}."""
    prepared = prepare(name, args)
    start_dynamic(prepared)
    cuda = prepared.device.type == "cuda"
    ways = {"before": plain, "after": contextlib.nullcontext}
    pairs = make_images(folder, IMAGES, args.scale)
    named = readers(folder, pairs)
    loaded = {"before": batches(pairs, named["baseline"], args), "after": batches(pairs, named["ours"], args)}
    columns = {way: [] for way in ways}
    for round_number in range(-1, args.repeats):
        for way, context in ways.items():
            with context(), marked(prepared):
                spent = milliseconds_by_part(recorded(prepared, loaded[way], cuda), cuda)
            if round_number >= 0:
                columns[way].append(spent)
    medians = {way: {part: round(statistics.median(spent[part] for spent in column), 2) for part in PARTS}
               for way, column in columns.items()}
    totals = {way: round(sum(column.values()), 2) for way, column in medians.items()}
    return {"bench": "profile_step", "model": name, "device": prepared.device.type,
            "ratio": round(totals["after"] / totals["before"], 3), "floor_ms": totals["before"], "ms": totals["after"],
            "peak_mb_ratio": None, **medians}


def recorded(prepared, loaded, cuda):
    """The profiler's events of one step."""
    with profiled(prepared.device) as run:
        with record_function("data"):
            lr, hr, _ = next(loaded)
            lr, hr = lr.to(prepared.device), hr.to(prepared.device)
        prepared.low.step(lr, hr)
        if cuda:
            torch.cuda.synchronize()
    return run.events()


def table(one):
    """A result in Markdown."""
    return "\n".join([f"| {one['model']}, {one['device']} | before, ms | after, ms |\n|---|---|---|",
                      *(f"| {part} | {one['before'][part]:.1f} | {one['after'][part]:.1f} |" for part in PARTS),
                      f"| **together** | **{one['floor_ms']:.1f}** | **{one['ms']:.1f}** |"])


def main(argv=None):
    args = step_parser(__doc__, repeats=5, patch_size=96).parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        for name in models(args):
            show(measure(name, args, Path(folder)), args.json, table)


if __name__ == "__main__":
    sys.exit(run_main(main))
