"""The dynamic gate (spec, section 4): from a feature's pooled channels to two factors for its bounds."""

import torch
from torch import nn
from torch.nn import functional as F

from model import parallel
from model.norm import BatchNorm2d
from model.tiles import GlobalMean
from quant.functional import fake_quantize
from quant.weight import quantize_symmetric

GATE_BITS = 2
GATE_CHANNELS = 32


class Gate(nn.Module):
    """A feature [N, C, h, w] to logits [N, 2, 1, 1], for the upper and the lower bound; beta = 2*sigmoid(logits).

    The feature comes in parts that would be concatenated over channels, or whole as the only part.

    Only `expand` learns: its input is quantized without a gradient. The batch norm's running statistics move in
    training; a training batch of one sample is normalised by them, since it has no statistics of its own.
    """

    def __init__(self, channels):
        super().__init__()
        self.pool = GlobalMean()
        self.reduce = nn.Conv2d(channels, GATE_CHANNELS, 1, bias=False)
        self.norm = BatchNorm2d(GATE_CHANNELS)
        self.expand = nn.Conv2d(GATE_CHANNELS, 2, 1, bias=False)

    def forward(self, *parts):
        with torch.autocast(parts[0].device.type, enabled=False):  # the bounds stay float32, at next to no cost
            with torch.no_grad():
                pooled = self._quantize(self.pool(*parts).to(self.reduce.weight.dtype))
                hidden = F.conv2d(pooled, quantize_symmetric(self.reduce.weight, GATE_BITS))
                hidden = self._quantize(F.relu(self._normalise(hidden)))
            return F.conv2d(hidden, quantize_symmetric(self.expand.weight, GATE_BITS))

    def _normalise(self, hidden):
        if self.training and len(hidden) * parallel.world_size() == 1:
            norm = self.norm
            return F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return self.norm(hidden)

    def _quantize(self, x):
        """Spec 3, 2d: bounds are the batch's extremes in training, each image's own in evaluation (section 9)."""
        if not self.training:
            return fake_quantize(x, x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True), GATE_BITS)
        extremes = parallel.highest(torch.stack((x.amax(), -x.amin())))
        return fake_quantize(x, -extremes[1:], extremes[:1], GATE_BITS)
