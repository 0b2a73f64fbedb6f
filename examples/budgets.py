"""What `make networks` trains, in which order and with how many steps: the one table to read or change.

`short` is what one core of a CPU can do in some 32 hours, tests apart; `paper` has no table, it is baseline.sh and
run.sh.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from utility import FULL_PRECISION

LOW_EPOCH = 150  # steps of quantized training between two tests on the validation images
# each of a run's last steps counts less: from 2/5 of the epochs on the rate falls by GAMMA at every share named here
GAMMA, DECAY = 0.7, (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
# photographs kept from training, the last ones of a folder: the first VALIDATED of them choose the best epoch
HELD_OUT = {"CID22": 25, "CLIC2025_half": 5}
VALIDATED = {"edsr_x2": 10, "edsr_x4": 10, "srresnet_x2": 10, "srresnet_x4": 10, "rdn_x4": 3,
             "rdn_baseline_x2": 3, "rdn_x2": 1}  # at low bits half a minute for each


@dataclass(frozen=True)
class Phase:
    """One of a network's runs of full-precision training: steps, LR pixels a side, learning rate.

    epoch: steps between two tests; gamma: what the rate falls by.
    """

    steps: int
    patch: int
    lr: float
    epoch: int = 500
    gamma: float = GAMMA


class Stage:
    """One network of the table; `network` is its name, as edsr_x4."""

    @property
    def model(self):
        """edsr, rdn or srresnet."""
        return self.network.partition("_x")[0]

    @property
    def scale(self):
        """2 or 4."""
        return int(self.network.partition("_x")[2])

    @property
    def validated(self):
        """How many photographs choose its best epoch."""
        return VALIDATED.get(self.name, VALIDATED[self.network])

    @property
    def for_comparison(self):
        """Whether it only serves a table of compared methods; full precision never does, as others start from it."""
        return not self.shipped and self.k_bits != FULL_PRECISION


@dataclass(frozen=True)
class FullPrecision(Stage):
    """Full precision. start: the network whose head and body it begins with. seconds: of a step of phase 1, one core.

    init: the flag; where a network makes the whole image, 500 steps from interpolation beat 4,000 from random weights.
    """

    network: str
    parts: tuple
    seconds: float
    batch: int = 16
    start: str = ""
    init: str = "random"
    k_bits, variant = FULL_PRECISION, ""  # alike for all, so no part of a recipe

    @property
    def starts_from(self):
        """The network whose full-precision file has to be there before, "" for none."""
        return self.start

    @property
    def name(self):
        """What its runs and its file are called."""
        return full_precision_name(self.network)

    @property
    def shipped(self):
        """Whether its file comes with the code: RDN's has 89 MB."""
        return self.model != "rdn"

    @property
    def duration(self):
        """Seconds on one core, tests apart; arithmetic grows with the patch's area."""
        return sum(phase.steps * self.seconds * (phase.patch / self.parts[0].patch) ** 2 for phase in self.parts)


@dataclass(frozen=True)
class Quantized(Stage):
    """A quantized network: k_bits wide, from the full-precision one. Gates by the network's published ratio.

    init_bounds, skip_bits, quantizer, seed: the flags. shipped: whether its file goes into pretrained/.
    """

    network: str
    k_bits: int
    steps: int
    seconds: float
    batch: int = 8
    patch: int = 24
    lr: float = 4e-4
    init_bounds: str = "calibrated"
    skip_bits: int = 0
    quantizer: str = "ddtb"
    seed: int = 1
    shipped: bool = True

    @property
    def starts_from(self):
        """The network whose full-precision file has to be there before."""
        return self.network

    @property
    def name(self):
        """What its run and its file are called."""
        marks = (self.quantizer if self.quantizer != "ddtb" else "",
                 self.init_bounds if self.quantizer == "ddtb" and self.init_bounds != "calibrated" else "",
                 f"skip{self.skip_bits}" if self.skip_bits else "", f"seed{self.seed}" if self.seed != 1 else "")
        return "_".join((f"{self.network}_{self.k_bits}bit", *filter(None, marks)))

    @property
    def variant(self):
        """What a row of the table says besides the bits."""
        start = {"calibrated": "calibrated bounds", "percentile": "as published", "released": "as released"}[
            self.init_bounds]
        marks = (start if self.quantizer == "ddtb" else "",
                 f"sums in {self.skip_bits} bits" if self.skip_bits else "",
                 f"seed {self.seed}" if self.seed != 1 else "")
        return ", ".join(filter(None, marks))

    @property
    def duration(self):
        """Seconds on one core, tests apart."""
        return self.seconds * self.steps


def full_precision_name(network):
    """What a network, as edsr_x4, is called in full precision."""
    return network.replace("_x", "_baseline_x")


def recipe(stage):
    """The numbers that make a stage, as models.json keeps them; made_of: a hash of those of what it starts from."""
    numbers = {name: value for name, value in asdict(stage).items() if name != "seconds"}
    numbers |= {"decay": "-".join(map(str, DECAY)), "validated": stage.validated,
                "held_out": ", ".join(f"{name} {count}" for name, count in HELD_OUT.items())}
    if isinstance(stage, Quantized):
        numbers |= {"epoch": LOW_EPOCH, "gamma": GAMMA, "ratio": RATIOS[stage.model]}
    start = next((other for other in SHORT if isinstance(other, FullPrecision) and other.network == stage.starts_from),
                 None)
    made_of = hashlib.sha256(json.dumps(recipe(start)).encode()).hexdigest()[:16] if start else ""
    return json.loads(json.dumps({**numbers, "made_of": made_of}))


RATIOS = {"edsr": 0.3, "srresnet": 0.1, "rdn": 0.5}  # of run.sh
EDSR = Phase(10_000, 24, 4e-4), Phase(1_000, 48, 5e-5)
SRRESNET = Phase(6_000, 24, 2e-4), Phase(500, 48, 5e-5)
RDN = (Phase(3_000, 24, 2e-4),)
WIDTHS = (4, 3, 2)
RDN_X2 = (Phase(600, 24, 2e-4, epoch=100, gamma=0.55),)  # all but the upsampler comes trained
# what is too large to ship begins with the weights of a shipped quantized network, where there is one
AGAIN = (Phase(400, 24, 2e-4, epoch=100, gamma=0.55),)


def _widths(network, steps, seconds, widths=WIDTHS, **settings):
    return [Quantized(network, k_bits, steps, seconds, **settings) for k_bits in widths]


def _compared_methods(network, seconds):
    """The compared methods at 4 and 2 bits."""
    return [stage for name in ("pams", "pact", "dorefa", "minmax")
            for stage in _widths(network, 3_000, seconds, (4, 2), quantizer=name, shipped=False)]


# in the order of work: what is cheapest and what others start from first
SHORT = [
    FullPrecision("edsr_x2", EDSR, 0.41),
    FullPrecision("srresnet_x2", SRRESNET, 0.60, init="interpolation"),
    *_widths("edsr_x2", 3_000, 0.4),
    *_widths("srresnet_x2", 3_000, 0.5),
    FullPrecision("edsr_x4", EDSR, 0.60, start="edsr_x2", init="interpolation"),
    *_widths("edsr_x4", 3_000, 0.5),
    *_widths("edsr_x4", 3_000, 0.5, skip_bits=8),
    FullPrecision("srresnet_x4", SRRESNET, 0.98, start="srresnet_x2", init="interpolation"),
    *_widths("srresnet_x4", 3_000, 0.7),
    *_widths("edsr_x4", 3_000, 0.5, (2, 4, 3), init_bounds="percentile"),
    *_compared_methods("edsr_x4", 0.5),
    *_widths("edsr_x4", 3_000, 0.5, (2, 4), seed=2, shipped=False),
    # x4 first here, as x2's tests take four times as long
    FullPrecision("rdn_x4", RDN, 2.2, batch=8, init="interpolation"),
    *_widths("rdn_x4", 900, 2.4, batch=4),
    FullPrecision("rdn_x2", RDN_X2, 2.2, batch=8, start="rdn_x4", init="interpolation"),
    *_widths("rdn_x2", 900, 2.4, batch=4),
    *_widths("rdn_x4", 900, 2.4, batch=4, skip_bits=8),
    *_compared_methods("srresnet_x4", 0.7),
]
