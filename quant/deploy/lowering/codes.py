"""Features of quantized networks in a graph: a tensor's name, and the grid that gives its values."""

from dataclasses import dataclass

from quant.deploy.lowering.levels import Grid, RuntimeGrid

AnyGrid = Grid | RuntimeGrid
Range = tuple[float, float]  # the smallest and the largest real value
TO_LAST = (0, 2, 3, 1)
TO_FIRST = (0, 3, 1, 2)


@dataclass(frozen=True)
class Codes:
    """A feature [N, C, h, w] whose values lie on `grid`, and its number of channels.

    name: for QLinear the uint8 codes, for Qdq the float values that DequantizeLinear gives.
    """

    name: str
    grid: AnyGrid
    channels: int
