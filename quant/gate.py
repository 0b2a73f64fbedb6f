"""The gate: from a feature's pooled channels to two factors for its bounds (quant/README.md, "Bounds and gates")."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import parallel
from model.common import full_precision
from model.tiles import GlobalMean
from quant.functional import fake_quantize
from quant.weight import quantize_symmetric

GATE_BITS = 2
GATE_CHANNELS = 32


class Gate(nn.Module):
    """A feature [N, C, h, w] to logits [N, 2, 1, 1], for the upper and the lower bound; beta = 2*sigmoid(logits).

    The feature comes in parts that would be concatenated over channels, or whole as the only part.
    Only `expand` learns: its input is quantized without a gradient. The batch norm's running statistics move in
    training; a training batch of one sample is normalised by them, since it has no statistics of its own. Where several
    processes share a training batch, they exchange the pooled channels, a few numbers, and each process computes the
    gate for the whole batch: extremes and statistics are then those of the whole batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = GlobalMean()
        self.reduce = nn.Conv2d(channels, GATE_CHANNELS, 1, bias=False)
        self.norm = nn.BatchNorm2d(GATE_CHANNELS)
        self.expand = nn.Conv2d(GATE_CHANNELS, 2, 1, bias=False)

    def forward(self, *parts: Tensor) -> Tensor:
        with full_precision(parts[0].device):  # the bounds stay float32, at next to no cost
            with torch.no_grad():
                pooled = self.pool(*parts).to(self.reduce.weight.dtype)
                whole = self._quantize(parallel.all_gather(pooled) if self.training else pooled)
                hidden = F.conv2d(whole, quantize_symmetric(self.reduce.weight, GATE_BITS))
                hidden = self._quantize(F.relu(self._normalise(hidden)))
            own = parallel.own_slice(hidden) if self.training else hidden
            return F.conv2d(own, quantize_symmetric(self.expand.weight, GATE_BITS))

    def _normalise(self, hidden):
        if self.training and len(hidden) == 1:
            norm = self.norm
            return F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return self.norm(hidden)

    def _quantize(self, x):
        """2-bit levels between min and max: those of the batch in training, of each image in evaluation."""
        if not self.training:
            return fake_quantize(x, x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True), GATE_BITS)
        return fake_quantize(x, x.amin().view(1), x.amax().view(1), GATE_BITS)
