"""Perceptual loss: the distance between VGG19's features of two images, and where VGG19's weights come from."""

import http.client
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.weights import check_fits, read_weights
from utility import UserError, first_line

log = logging.getLogger(__name__)

DEPTHS = {"VGG22": 8, "VGG54": 35}  # layers of torchvision's `features`: up to conv2_2 and conv5_4, before their ReLU
MIN_PATCH = {"VGG22": 2, "VGG54": 16}  # one and four pools of 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of images in 0..1
ADVICE = "give --vgg_weights torchvision's VGG19, such as vgg19-dcbb9e9d.pth"


class VGGLoss(nn.Module):
    """Mean squared difference of VGG19 features (SRGAN, arXiv 1609.04802, equation 5; before the ReLU, as in ESRGAN).

    name: VGG22 or VGG54, the layer. state: torchvision's state dict of VGG19, of which the layers up to `name` are
    used (`read_vgg19` reads one).
    """

    def __init__(self, name: str, state: Mapping[str, Tensor], *, rgb_range: float) -> None:
        super().__init__()
        self.rgb_range = rgb_range
        self.features = _empty_vgg19().features[: DEPTHS[name]]
        for key in dict(self.features.named_parameters()):
            position, kind = key.split(".")
            delattr(self.features[int(position)], kind)  # a buffer is found by no optimizer and saved in no checkpoint
            self.features[int(position)].register_buffer(kind, state[f"features.{key}"].float(), persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """sr, hr: float32 [N, 3 or 1, h, w] in 0..rgb_range, hr detached. Returns a scalar."""
        return F.mse_loss(self._look(sr), self._look(hr))

    def _look(self, image):
        return self.features((image / self.rgb_range - self.mean) / self.std)


def _empty_vgg19():
    """torchvision's VGG19 before the classifier, with weights that have shapes and no values."""
    from torchvision.models import vgg19  # slow to import, and few losses need it

    with torch.device("meta"):
        network = vgg19()
    del network.classifier
    return network


def read_vgg19(path: str | Path, name: str) -> dict[str, Tensor]:
    """The state dict in `path`, with the layers that `name` (VGG22, VGG54) needs, under torchvision's keys.

    The file holds VGG19's state dict or only its `features`, which may end after the layer in question. Raises
    UserError, naming the file, when it can't be read or is not VGG19.
    """
    network = _empty_vgg19()
    later = {key: empty for key, empty in network.state_dict().items() if int(key.split(".")[1]) >= DEPTHS[name]}
    try:
        state = {key if key.startswith("features.") else f"features.{key}": value
                 for key, value in read_weights(path).state.items() if not key.startswith("classifier.")}
        check_fits(network, later | state, path)
    except UserError as error:
        raise UserError(f"{error}; {ADVICE}") from error
    return state


def download_vgg19() -> Path:
    """The file of torchvision's VGG19 (ImageNet, some 550 MB) in torch's cache, where torchvision keeps it too.

    Fetches it when it is not there. Raises UserError when that fails.
    """
    from torchvision.models import VGG19_Weights

    url = VGG19_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        log.info("fetching %s to %s", url, path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, path, path.stem.rsplit("-", 1)[1], progress=sys.stderr.isatty())
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = first_line(str(error)) or type(error).__name__
            raise UserError(f"--loss: VGG19's weights could not be fetched from {url} ({reason}); "
                            "fetch the file elsewhere and give it with --vgg_weights") from error
    return path
