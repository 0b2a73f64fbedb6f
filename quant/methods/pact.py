"""PACT: a parameterised upper clip (Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural
Networks", 2018, arXiv 1805.06085).

    y = round(clip(x, 0, a) * n / a) * a / n,   n = 2**k - 1,   a trained

with dy/da = 1 where x >= a, else 0. Weights are quantized as in DoReFa-Net.
"""

from quant.methods.clipped import ScaleQuantizer


class PactQuantizer(ScaleQuantizer):
    """The paper clips what a ReLU made. A feature that can be negative is clipped to [-a, a] here, or it would be lost.

    alpha starts at the mean of the calibration batches' largest |x|: the paper's 10 fits normalised features alone.
    """
