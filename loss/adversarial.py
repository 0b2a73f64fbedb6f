"""Adversarial parts of the loss: a discriminator trains beside the network, which pays where it is found out."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import parallel
from model.optimizer_state import load_optimizer

KINDS = ("GAN", "WGAN", "WGAN_GP", "RGAN")
CLIP = 1.0
PENALTY = 10.0
N_FEATS, HIDDEN = 64, 1024  # of the discriminator
MIN_PATCH = 17  # smaller patches end as one pixel, on which a batch of one has no BatchNorm statistics


class Adversarial(nn.Module):
    """Trains its discriminator `gan_k` steps a call and returns the network's loss against it.

    kind: GAN (SRGAN, arXiv 1609.04802), WGAN (1701.07875, weights clipped to +-1), WGAN_GP (1704.00028, penalty 10),
    RGAN (relativistic average, ESRGAN, 1809.00219). Discriminator, clip and these settings are EDSR-PyTorch's: Adam
    with lr 1e-4, for WGAN_GP lr 1e-5 and betas (0, 0.9). The rate stays constant; BatchNorm sees real and generated
    images apart. The discriminator is given images in 0..1, so that a penalty on its slope means the same at every
    rgb_range. The state dict holds its optimizer too: a resumed run is exact. Where several processes share a batch
    the discriminator learns from all of it; its BatchNorm and RGAN's means see each process's own patches. Raises
    ValueError for another kind.
    """

    def __init__(self, kind: str, *, patch_size: int, rgb_range: float, gan_k: int = 1) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: choose {', '.join(KINDS)}")
        self.kind, self.gan_k, self.rgb_range = kind, gan_k, rgb_range
        self.discriminator = Discriminator(patch_size=patch_size)
        settings = {"lr": 1e-5, "betas": (0.0, 0.9)} if kind == "WGAN_GP" else {"lr": 1e-4}
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), **settings)
        self.discriminator_loss = None

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """sr, hr: float32 [N, 3 or 1, patch_size, patch_size] in 0..rgb_range, hr detached. Returns a scalar.

        In training, with gradients on, the discriminator takes its steps first; `discriminator_loss` is their mean
        loss, a detached 0-d tensor. Otherwise nothing is trained and it is None.
        """
        fake, real = ((image / self.rgb_range).expand(-1, 3, -1, -1) for image in (sr, hr))
        train = self.training and torch.is_grad_enabled()
        self.discriminator_loss = self._train_discriminator(fake.detach(), real.detach()) if train else None
        self.discriminator.requires_grad_(False)  # the network's gradients pass through it and leave none in it
        try:
            return self._generator_loss(fake, real)
        finally:
            self.discriminator.requires_grad_(True)

    def _generator_loss(self, fake, real):
        judged = self.discriminator(fake)
        if self.kind == "GAN":
            return taken_for_real(judged)
        if self.kind == "RGAN":
            return relativistic(judged, self.discriminator(real))
        return -judged.mean()

    def _train_discriminator(self, fake, real):
        losses = []
        for _ in range(self.gan_k):
            loss = self._discriminator_loss(fake, real)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            parallel.average_gradients(self.discriminator.parameters())
            self.optimizer.step()
            if self.kind == "WGAN":
                for parameter in self.discriminator.parameters():
                    parameter.detach().clamp_(-CLIP, CLIP)
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def _discriminator_loss(self, fake, real):
        judged_fake, judged_real = self.discriminator(fake), self.discriminator(real)
        if self.kind == "GAN":
            return taken_for_real(judged_real) + taken_for_fake(judged_fake)
        if self.kind == "RGAN":
            return relativistic(judged_real, judged_fake)
        loss = judged_fake.mean() - judged_real.mean()
        return loss + gradient_penalty(self.discriminator, fake, real) if self.kind == "WGAN_GP" else loss

    def get_extra_state(self) -> dict[str, Any]:
        """The discriminator's optimizer; torch puts it into the state dict."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the discriminator's optimizer. Raises ValueError for a state of another one."""
        load_optimizer(self.optimizer, state)


def taken_for_real(logits: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N, 1] against the label 'real'."""
    return F.softplus(-logits).mean()


def taken_for_fake(logits: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N, 1] against the label 'generated'."""
    return F.softplus(logits).mean()


def relativistic(winner: Tensor, loser: Tensor) -> Tensor:
    """Low where `winner` logits [N, 1] lie above the mean of the `loser` logits, and these below the mean of those.

    ESRGAN's equations 1 and 2: for the discriminator real images are to win, for the network generated ones.
    """
    return taken_for_real(winner - loser.mean()) + taken_for_fake(loser - winner.mean())


def gradient_penalty(discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    """PENALTY * (|gradient| - 1)^2 at random points between fake and real (arXiv 1704.00028, equation 3)."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = torch.lerp(fake, real, share).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return PENALTY * (gradient.flatten(1).norm(dim=1) - 1).square().mean()


class Discriminator(nn.Module):
    """SRGAN's (figure 4): eight conv3x3-BN-LeakyReLU layers, then two fully connected ones.

    Every other layer halves the side (odd ones rounded up), the ones between double the channels: 512 at the end.
    patch_size: side in pixels, MIN_PATCH or more.
    """

    def __init__(self, *, patch_size: int) -> None:
        super().__init__()
        channels = [N_FEATS * 2 ** (number // 2) for number in range(8)]
        self.features = nn.Sequential(*map(_layer, [3, *channels], channels, [1, 2] * 4))
        values = channels[-1] * math.ceil(patch_size / 16) ** 2
        self.classifier = nn.Sequential(nn.Linear(values, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))

    def forward(self, image: Tensor) -> Tensor:
        """image: [N, 3, patch_size, patch_size] in 0..1. Returns logits [N, 1], above 0: taken for real."""
        return self.classifier(self.features(image).flatten(1))


def _layer(in_channels, out_channels, stride):
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.2, inplace=True))
