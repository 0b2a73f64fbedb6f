"""DoReFa-Net: a fixed range (Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low
Bitwidth Gradients", 2016, arXiv 1606.06160).

    y = round(clip(x, 0, 1) * n) / n,   n = 2**k - 1

Weights go through tanh first: w' = tanh(w) / (2 max|tanh(w)|) + 1/2, y = 2 round(n*w')/n - 1.
"""

from quant.methods.clipped import ScaleQuantizer


class DoReFaQuantizer(ScaleQuantizer):
    """The paper takes features in 0..1 as given. Here x / alpha is what it quantizes, in -1..1 where x can be negative.

    alpha, the mean of the calibration batches' largest |x|, stays as it is.
    """

    trained = False
