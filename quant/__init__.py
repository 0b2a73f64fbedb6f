"""DDTB quantization: `quantize` turns a full-precision network into its low-bit form, `Schedule` leads its training.

`open_network` gives the network in a file or a run's folder, `enlarge` returns an image two to four times as large.
"""

from quant.config import QuantConfig
from quant.open import open_network
from quant.phase import Phase, set_phase
from quant.picture import enlarge
from quant.schedule import Schedule
from quant.swap import is_quantized, quantize

__all__ = ["Phase", "QuantConfig", "Schedule", "enlarge", "is_quantized", "open_network", "quantize", "set_phase"]
