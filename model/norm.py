"""Batch normalisation that sees the whole batch, also where several processes share it."""

from typing import Any

import torch
from torch import Tensor, nn

from model import parallel


class BatchNorm2d(nn.BatchNorm2d):
    """torch's BatchNorm2d; in training with several processes mean and variance are those of all their slices.

    One process and many normalise alike and keep the same running statistics. This takes one exchange in forward and
    one in backward. torch's SyncBatchNorm refuses tensors on the CPU (ValueError "expected input tensor to be on GPU"),
    where several processes train too, so it cannot replace this. Arithmetic is float32 under autocast; the result has
    x's dtype.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or parallel.world_size() == 1:
            return super().forward(x)
        y, mean, var = _Normalise.apply(x, self.weight, self.bias, self.eps)
        self._track(mean, var, count=parallel.world_size() * x.numel() // x.shape[1])
        return y

    @torch.no_grad()
    def _track(self, mean, var, count):
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        own_var, own_mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        means, variances = parallel.all_gather(torch.stack((own_mean, own_var))[None]).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        factor = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, weight, mean, factor)
        ctx.mark_non_differentiable(mean, var)
        y = (x.float() - _plane(mean)) * _plane(factor * weight) + _plane(bias)
        return y.to(x.dtype), mean, var

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _mean: Any, _var: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, factor = ctx.saved_tensors
        normal = (x.float() - _plane(mean)) * _plane(factor)
        wide = grad.float()
        own = torch.stack((wide.mean((0, 2, 3)), (wide * normal).mean((0, 2, 3))))
        by_shift, by_scale = parallel.all_reduce_mean(own)
        grad_x = (wide - _plane(by_shift) - normal * _plane(by_scale)) * _plane(factor * weight)
        count = x.numel() // x.shape[1]
        return grad_x.to(x.dtype), own[1] * count, own[0] * count, None


def _plane(values):
    """[C] as [1, C, 1, 1]."""
    return values.view(1, -1, 1, 1)
