"""The processes of a training run, as torchrun starts them: which one this is, and how they meet."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from model import parallel
from utility import UserError


@dataclass(frozen=True)
class Ranks:
    """Which of the run's processes this one is; local_rank counts within the machine and chooses the GPU."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


@contextlib.contextmanager
def join_processes(*, n_gpus: int = 1, test_only: bool = False, cpu: bool = False) -> Iterator[Ranks]:
    """Meet the other processes of this run, where torchrun started some. Gives the Ranks.

    CUDA tensors then travel by NCCL, others by gloo. Raises UserError for --n_GPUs above 1 without torchrun, for tests
    in several processes, and where the processes can't meet.
    """
    ranks = Ranks()
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        ranks = Ranks(*(_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    elif n_gpus > 1 and test_only:
        raise UserError(f"--n_GPUs {n_gpus}: tests run on one GPU; leave the flag out")
    elif n_gpus > 1:
        raise UserError(f"--n_GPUs {n_gpus}: one process uses one GPU; type torchrun --nproc_per_node "
                        f"{n_gpus} {Path(sys.argv[0]).name} ... with the other flags")
    if ranks.world_size == 1:
        yield ranks
        return
    if test_only:
        raise UserError("--test_only: tests run in one process; type python instead of torchrun")
    with parallel.process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() and not cpu else "gloo"):
        yield ranks


def _number(name):
    text = os.environ.get(name, "0")
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{name}={text}: is no number; torchrun sets it, else leave it unset") from error
