"""Full-precision training's objective."""

from model.compiling import compiled


class Supervised:
    """Full-precision training's objective: a `loss.Loss` between sr and hr, in every epoch alike.

    compiler: model.compiling.compiled's, for the network's forward pass.
    """

    def __init__(self, loss, *, compiler=None):
        self.loss = loss
        self._forward = compiled(_forward, compiler)

    def start_epoch(self, network, epoch):
        """Nothing depends on the epoch."""
        network.train()
        self.loss.train()

    def can_be_tested(self, epoch):
        """Every epoch's network can."""
        return True

    def counts_for_best(self, epoch):
        """Every epoch counts."""
        return True

    def losses(self, network, lr, hr):
        """(loss to minimise, {name: weighted part, a detached 0-d tensor}); lr [N, 3, h, w], hr [N, 3, s*h, s*w]."""
        total = self.loss(self._forward(network, lr), hr)
        return total, dict(self.loss.parts)

    def report(self, network):
        """No scalars of its own."""
        return {}

    def warnings(self, network):
        """Nothing to warn of."""
        return []

    def checkpoint(self, network):
        """Full precision."""
        return {"quant": None}

    def state_dict(self):
        """The loss's own state: a discriminator with its optimizer, where it has one."""
        return {"loss": self.loss.state_dict()}

    def load_state_dict(self, state):
        """Continue the loss."""
        self.loss.load_state_dict(state["loss"])


def _forward(network, lr):
    return network(lr)
