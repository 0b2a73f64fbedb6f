"""From a picture to its enlargement, by a network as Python code has it."""

from typing import Any

import numpy as np
import torch
from torch import nn

from data.pictures import Picture, picture_of
from model.common import SuperResolver
from model.inference import super_resolve
from quant.activation import check_finished


@torch.no_grad()
def enlarge(network: SuperResolver, image: Any, *, chop_size: int | None = None, self_ensemble: bool = False) \
        -> np.ndarray:
    """An image uint8 [h, w, 3], also a PIL one in RGB, to uint8 [scale*h, scale*w, 3].

    It is computed on the network's device, in its dtype. A network with one colour gets the luma and gives grey.
    chop_size, self_ensemble: as in `super_resolve`. Raises ValueError for another array or an empty one, and for a
    network that trains, calibrates or has no bounds; TypeError for an OnnxNetwork.
    """
    mode = getattr(image, "mode", "RGB")
    if isinstance(mode, str) and mode != "RGB":  # three channels of YCbCr or HSV look like RGB
        raise ValueError(f"an image is uint8 [h, w, 3] in RGB, not in {mode}; make a PIL one RGB")
    image = np.array(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image is uint8 [h, w, 3], not {image.dtype} {list(image.shape)}; make a PIL one RGB")
    if not isinstance(network, nn.Module):  # a compiled network is no SuperResolver
        raise TypeError(f"network: is a {type(network).__name__}; give one of open_network; exported files are run by "
                        "quant.upscale.enlarge")
    check_finished(network)
    lr = Picture(image).values(rgb_range=network.rgb_range, n_colors=network.n_colors)
    kept_as = next(network.parameters())
    lr = lr.to(kept_as.device, kept_as.dtype)
    sr = super_resolve(network, lr, scale=network.scale, chop_size=chop_size, self_ensemble=self_ensemble)[0]
    return np.ascontiguousarray(picture_of(sr.float() * (255 / network.rgb_range)).colours)
