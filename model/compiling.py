"""--compile: parts of a training step through torch.compile."""

from collections.abc import Callable

import torch


def compiled(function: Callable, compiler: str | None) -> Callable:
    """A part of the training step through torch.compile, or unchanged where `compiler` is None.

    compiler: the name of torch.compile's backend. It compiles once for each phase of training, when that begins.
    """
    return function if compiler is None else torch.compile(function, backend=compiler)
