"""Training in several processes as torchrun starts them: how they meet, and what they work out together.

Batch b of an epoch is shared out in equal slices, and whatever one process would compute of the whole batch (gradients,
losses, extremes, statistics) is computed over all slices, so that every process holds the same network at any time.
In a run of one process each function gives its argument back, so networks and quantizers call them unconditionally.
"""

import contextlib
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from utility import UserError

# Processes wait for the first one while it tests, which can take hours on the CPU; a process that ends is noticed at
# once whatever this is, by its closed connections.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """Which of the run's processes this one is; local_rank counts within the machine and chooses the GPU."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


@contextlib.contextmanager
def joined(options):
    """Meet the other processes of this run, where torchrun started some. Gives the Ranks.

    CUDA tensors then travel by NCCL, others by gloo. Raises UserError for --n_GPUs above 1 without torchrun.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        _refuse_many_gpus(options)
        yield Ranks()
        return
    ranks = Ranks(*(int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if ranks.world_size > 1 and options.test_only:
        raise UserError("--test_only: tests run in one process; type python instead of torchrun")
    if ranks.world_size == 1:
        yield ranks
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and not options.cpu else "gloo"
    with _peers():
        distributed.init_process_group(backend, timeout=PATIENCE)
    yield ranks
    distributed.destroy_process_group()


def _refuse_many_gpus(options):
    if options.n_GPUs < 2:
        return
    if options.test_only:
        raise UserError(f"--n_GPUs {options.n_GPUs}: tests run on one GPU; leave the flag out")
    program = Path(sys.argv[0]).name
    raise UserError(f"--n_GPUs {options.n_GPUs}: one process uses one GPU; type torchrun --nproc_per_node "
                    f"{options.n_GPUs} {program} ... with the other flags")


@contextlib.contextmanager
def _peers():
    """Turn the failure of a collective into a UserError: it means that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise UserError("another process of this run has ended, its own message says why; start all of them again "
                        "with --load to continue") from error


def world_size():
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first():
    """Whether this is the process that tests, logs and writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def wait_for_all():
    """Return when every process has come here."""
    if world_size() > 1:
        highest(torch.zeros(1))


def mean(tensor):
    """The mean over all processes, element by element; equal slices make it the mean over the whole batch."""
    return _reduced(tensor, distributed.ReduceOp.SUM) / world_size() if world_size() > 1 else tensor


def highest(tensor):
    """The maximum over all processes, element by element."""
    return _reduced(tensor, distributed.ReduceOp.MAX) if world_size() > 1 else tensor


def lowest(tensor):
    """The minimum over all processes, element by element."""
    return _reduced(tensor, distributed.ReduceOp.MIN) if world_size() > 1 else tensor


def gathered(tensor):
    """The slices [n, ...] of all processes as one batch [world_size * n, ...], in the batch's order."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    with _peers():
        distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _reduced(tensor, operation):
    tensor = tensor.detach().clone()
    with _peers():
        distributed.all_reduce(tensor, operation)
    return tensor


@torch.no_grad()
def average_gradients(parameters):
    """Replace each gradient by its mean over all processes, in one exchange.

    Losses are means over equal slices of the batch, so this is the whole batch's gradient. torch's own wrapper would
    have to own forward(), which the objectives go around, and be told anew in each phase which gates take part.
    """
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = together.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
