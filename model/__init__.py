"""Full-precision networks and their registry; quantization is applied to them from outside, by `quant`."""

from model.registry import NETWORKS, build, name_of, skeleton

__all__ = ["NETWORKS", "build", "name_of", "skeleton"]
