"""Adam in the order of operations that the golden numbers were measured with."""

import math

import torch


class FormerAdam(torch.optim.Optimizer):
    """Adam (0.9, 0.999, 1e-8) that scales its running mean and adds to it, where today's torch interpolates.

    The two differ in the last bit. Over a dozen steps this decides some weights' rounding ties, and SRResNet's bounds
    end 0.002 apart: whole schedules can be compared with golden numbers to 0.001 in this order only.
    """

    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"])

    def _update(self, parameter, lr):
        state = self.state[parameter]
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        state["step"] += 1
        mean = state["mean"].mul_(0.9).add_(parameter.grad, alpha=1 - 0.9)
        square = state["square"].mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=1 - 0.999)
        correction = math.sqrt(1 - 0.999 ** state["step"])
        parameter.addcdiv_(mean, (square.sqrt() / correction).add_(1e-8), value=-lr / (1 - 0.9 ** state["step"]))
