"""DDTB quantization: `quantize` turns a full-precision network into its low-bit form, `Schedule` leads its training."""

from quant.config import QuantConfig
from quant.phase import Phase, set_phase
from quant.schedule import Schedule
from quant.swap import is_quantized, quantize

__all__ = ["Phase", "QuantConfig", "Schedule", "is_quantized", "quantize", "set_phase"]
