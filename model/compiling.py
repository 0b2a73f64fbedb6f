"""--compile: parts of a training step through torch.compile."""

from collections.abc import Callable

import torch


def compiled(function: Callable, compiler: str | None) -> Callable:
    """What --compile makes of a part of the training step: torch.compile's form of it; itself where `compiler` is None.

    compiler: the name of a backend of torch.compile. It makes a form for each phase of training, when first needed.
    """
    return function if compiler is None else torch.compile(function, backend=compiler)
