"""VGG19's weights: from a file, or from torchvision's own download."""

import http.client
import logging
import sys
from pathlib import Path

import torch

from loss.vgg import DEPTHS, conv_shapes
from model.torch_file import read_torch_file
from utility import UserError

log = logging.getLogger(__name__)
ADVICE = "give --vgg_weights torchvision's VGG19, such as vgg19-dcbb9e9d.pth"


def read_vgg19(path: str | Path, name: str) -> dict[str, torch.Tensor]:
    """The state dict in `path`, with the layers that `name` (VGG22, VGG54) needs, under torchvision's keys.

    The file holds VGG19's state dict or only its `features`, which may end after the layer in question. Raises
    UserError, naming the file, when it can't be read or is not VGG19.
    """
    state = read_torch_file(path)
    if isinstance(state, dict) and "0.weight" in state:  # saved from `vgg19().features`
        state = {f"features.{key}": value for key, value in state.items()}
    _check(state, name, path)
    return state


def download_vgg19() -> Path:
    """The file of torchvision's VGG19 (ImageNet, some 550 MB) in torch's cache, where torchvision keeps it too.

    Fetches it when it is not there. Raises UserError when that fails.
    """
    from torchvision.models import VGG19_Weights  # slow to import, and only this function needs it

    url = VGG19_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        log.info("fetching %s to %s", url, path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, path, path.stem.rsplit("-", 1)[1], progress=sys.stderr.isatty())
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise UserError(
                f"--loss: VGG19's weights could not be fetched from {url} ({_first_line(error)}); "
                "fetch the file elsewhere and give it with --vgg_weights"
            ) from error
    return path


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check(state, name, path):
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, not VGG19's state dict; {ADVICE}")
    known, needed = {}, set()
    for position, shape in conv_shapes().items():
        pair = {f"features.{position}.weight": shape, f"features.{position}.bias": shape[:1]}
        known |= pair
        needed |= set(pair) if position < DEPTHS[name] else set()
    present = {key for key in state if str(key).startswith("features.")}
    for key in sorted(needed - present):
        raise UserError(f"{path}: has no {key}, which {name} needs; {ADVICE}")
    for key in sorted(present):
        shape = state[key].shape if isinstance(state[key], torch.Tensor) else None
        if key not in known or shape != known[key]:
            raise UserError(f"{path}: {key} is not a layer of VGG19 or has another shape; {ADVICE}")
