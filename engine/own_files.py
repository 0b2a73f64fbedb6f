"""Which files of a folder runs have written: those that are moved aside or deleted with a run, and no others."""

import re
from pathlib import Path

from model.saved import BEST, LAST
from utility import MAKER, UNFINISHED, UNFINISHED_TEST

# the models come first and config.txt last, so that a run half deleted does not pass for a whole one
PATTERNS = (LAST, BEST, "model/model_best.old-*.pth.tar",
            "model/model_[0-9]*.pth.tar", f"model/{UNFINISHED}*", "results-*/*bit_*_x[234]_*.png",
            f"results-*/{UNFINISHED}*", f"results-*/{UNFINISHED_TEST}", "run/events.out.tfevents.*", "loss_*.png",
            "psnr_*.png", f"{UNFINISHED}*", "tested-*.jsonl", "eval.txt", "log.txt", "config.txt")
CURVE = re.compile(r"(?:loss|psnr)_.*\.png")
# what the patterns take that no run writes is another's
MODEL = re.compile(r"model_(?:[0-9]+|best(?:\.old-[0-9]+)?)\.pth\.tar")
RESULT = re.compile(r"(?:[2-8]|32)bit_.+_x[234]_(?:SR|LR|HR)\.png")


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder, links too, that fit a pattern and have a name that a run gives, sorted."""
    return sorted(path for path in folder.glob(pattern)
                  if (path.is_symlink() or path.is_file()) and _has_own_name(path))


def own_files(folder: Path) -> list[Path]:
    """Every file that a run has written there, in the order in which they may be deleted."""
    files = [path for pattern in PATTERNS for path in matching(folder, pattern) if _is_ours(path)]
    # a folder within may be a link: that is the run's, what lies behind it is another's
    return list(dict.fromkeys(path.parent if path.parent != folder and path.parent.is_symlink() else path
                              for path in files))


def _has_own_name(file):
    if file.name.startswith((UNFINISHED, UNFINISHED_TEST)):
        return True
    if file.name.startswith("model_"):
        return MODEL.fullmatch(file.name) is not None
    return not file.parent.name.startswith("results-") or RESULT.fullmatch(file.name) is not None


def _is_ours(file):
    """Whether a file by such a name is a run's: other pictures of losses and PSNR do not say who made them."""
    return file.is_symlink() or not CURVE.fullmatch(file.name) or MAKER.encode() in file.read_bytes()
