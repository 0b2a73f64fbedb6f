"""Where a run's folder has its networks, and what they say of themselves."""

from pathlib import Path
from typing import Any

from model.torch_file import read_torch_file
from utility import UserError

BEST, LAST = "model/model_best.pth.tar", "model/checkpoint.pth.tar"


def best_of(file: str | Path) -> dict[str, Any] | None:
    """What a file holds as a run's best network: {"psnr", "epoch"}; None where it is no such, or is not there."""
    try:
        state = read_torch_file(file)
        return state["best"] if state["best"]["epoch"] == state["epoch"] else None
    except (KeyError, TypeError, UserError):
        return None
