"""Full-precision networks and their registry; quantization is applied to them from outside, by `quant`."""

from model.registry import NETWORKS, build, name_of

__all__ = ["NETWORKS", "build", "name_of"]
