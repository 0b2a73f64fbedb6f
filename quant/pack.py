"""Write a quantized network's weights as k-bit integers: `python -m quant.pack --help`."""

import logging
import sys
from pathlib import Path

from model.weights import trained_file
from quant.deploy.network import load_network, parse, phase_of
from quant.deploy.packed import FORMAT, SUFFIX, is_packed, write_packed
from utility import UserError, add_force, check_output, run_main


def main(argv=None):
    """Read --refine, write --out, say how large it became. Raises UserError for a user's mistake."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse(argv, "Pack the weights of a quantized network as k-bit integers (safetensors).", _add_flags)
    if options.k_bits == 32:
        raise UserError("--k_bits 32: there is nothing to pack in full precision; give the bits of a quantized network")
    if not is_packed(options.out):
        raise UserError(f"--out {options.out}: a packed file's name ends in {SUFFIX}")
    source = Path(options.refine)
    source = trained_file(source) if source.is_dir() else source
    check_output(options.out, flag="--out", mark=FORMAT.encode(), inputs=[source], force=options.force)
    network = load_network(options)
    size = write_packed(network, options.out, phase=phase_of(network), source=source, rest=options.rest)
    full = 4 * sum(parameter.numel() for name, parameter in network.named_parameters() if ".gate." not in name)
    print(f"{options.out}: {size / 1e6:.2f} MB, {full / size:.1f} times smaller than float32 ({full / 1e6:.2f} MB)")
    return 0


def _add_flags(parser):
    parser.add_argument("--refine", required=True, help="what to pack: a run's folder or a checkpoint")
    parser.add_argument("--out", required=True, help=f"file to write, ending in {SUFFIX}")
    parser.add_argument("--rest", default="fp32", choices=("fp32", "fp16"),
                        help="how tensors that are not quantized are kept (default: fp32, exact)")
    add_force(parser)


if __name__ == "__main__":
    sys.exit(run_main(main))
