"""Write a quantized network's weights as k-bit integers: `python -m quant.pack --help`."""

import logging
import sys
from collections.abc import Sequence

from data.images import named_path
from quant.deploy.network import given_flags, network_parser
from quant.deploy.packed import FORMAT, RESTS, SUFFIX, write_packed
from quant.open import open_network
from utility import FULL_PRECISION, UserError, add_force, check_output, run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Read --refine, write --out, say how large it became. Raises UserError for a user's mistake."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = network_parser("Pack the weights of a quantized network as k-bit integers (safetensors).")
    parser.add_argument("--refine", required=True, type=named_path, help="what to pack: a run's folder or a checkpoint")
    parser.add_argument("--out", required=True, type=named_path, help=f"file to write, ending in {SUFFIX}")
    parser.add_argument("--rest", default="fp32", choices=RESTS,
                        help="how tensors that are not quantized are kept (default: fp32, exact)")
    add_force(parser)
    options = parser.parse_args(argv)
    if options.k_bits == FULL_PRECISION:
        raise UserError("--k_bits 32: there is nothing to pack in full precision; give the bits of a quantized network")
    if options.out.suffix != SUFFIX:
        raise UserError(f"--out {options.out}: a packed file's name ends in {SUFFIX}")
    network = open_network(options.refine, flag="--refine", **given_flags(options))
    source = network.source
    if source.quant is None:
        raise UserError(f"--refine {options.refine}: is a full-precision network, there is nothing to pack; give a "
                        "quantized one")
    check_output(options.out, flag="--out", mark=FORMAT.encode(), inputs=[source.path], force=options.force)
    size = write_packed(network, options.out, source=source.path, rest=options.rest)
    full = 4 * sum(parameter.numel() for name, parameter in network.named_parameters() if ".gate." not in name)
    print(f"{options.out}: {size / 1e6:.2f} MB, {full / size:.1f} times smaller than float32 ({full / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
