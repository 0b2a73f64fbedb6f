"""What the processes of a training run compute together, as torchrun starts them.

Each batch is split into equal slices. Gradients, losses, extremes and statistics are computed over all slices, so every
process holds the same network at any time. In a run of one process each function leaves tensors as they are, so
networks and quantizers call them unconditionally.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed

from utility import UserError, first_line

# The others wait while the first process tests, which can take hours on the CPU. A process that ends closes its
# connections, so the others notice at once, whatever this value is.
PATIENCE = timedelta(days=1)


@contextlib.contextmanager
def joined(*, n_gpus: int = 1, test_only: bool = False, cpu: bool = False) -> Iterator[None]:
    """Meet the other processes of this run, where torchrun started some; part from them when the block ends well.

    CUDA tensors then travel by NCCL, others by gloo. Raises UserError for --n_GPUs above 1 without as many
    processes, for tests in several, and where the processes can't meet.
    """
    processes = 1
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        processes, _ = _number("WORLD_SIZE"), _number("RANK")
        if n_gpus not in (1, processes, _number("LOCAL_WORLD_SIZE")):
            raise UserError(f"--n_GPUs {n_gpus}: {processes} processes were started, each for one GPU; give that "
                            "number to torchrun's --nproc_per_node, or leave the flag out")
    elif n_gpus > 1 and test_only:
        raise UserError(f"--n_GPUs {n_gpus}: tests run on one GPU; leave the flag out")
    elif n_gpus > 1:
        raise UserError(f"--n_GPUs {n_gpus}: one process uses one GPU; type torchrun --nproc_per_node "
                        f"{n_gpus} {Path(sys.argv[0]).name} ... with the other flags")
    if processes == 1:
        yield
        return
    if test_only:
        raise UserError("--test_only: tests run in one process; type python instead of torchrun")
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() and not cpu else "gloo",
                                       timeout=PATIENCE)
    except (distributed.DistError, ValueError) as error:
        place = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise UserError(f"the processes of this run can't meet at {place} ({first_line(str(error)):.200}); start all "
                        "of them with torchrun, at an address and port that are free") from error
    yield
    distributed.destroy_process_group()


def _number(name):
    text = os.environ.get(name, "0")
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{name}={text}: is no number; torchrun sets it, else leave it unset") from error


@contextlib.contextmanager
def _peers():
    """Turn the failure of a connection into a UserError: it means that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo/transport" not in str(error):
            raise
        raise UserError("another process of this run has ended, its own message says why; start all of them again "
                        f"with --load to continue ({first_line(str(error)):.200})") from error


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def local_rank() -> int:
    """Which of them on this machine this one is, from 0."""
    return _number("LOCAL_RANK") if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that tests, logs and writes."""
    return rank() == 0


def wait_for_all() -> None:
    """Return when every process has called this."""
    all_reduce_max(torch.zeros(1))


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean over all processes, element by element; equal slices make it the mean over the whole batch."""
    return _reduced(tensor, distributed.ReduceOp.SUM) / world_size() if world_size() > 1 else tensor


def all_reduce_max(tensor: Tensor) -> Tensor:
    """The maximum over all processes, element by element."""
    return _reduced(tensor, distributed.ReduceOp.MAX) if world_size() > 1 else tensor


def all_gather(tensor: Tensor) -> Tensor:
    """The slices [n, ...] of all processes as one batch [world_size * n, ...], in the batch's order."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    with _peers():
        distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def own_slice(batch: Tensor) -> Tensor:
    """This process's slice [n, ...] of a batch [world_size * n, ...] that `all_gather` made."""
    return batch if world_size() == 1 else batch.chunk(world_size())[rank()]


def _reduced(tensor, operation):
    tensor = tensor.detach().clone()
    with _peers():
        distributed.all_reduce(tensor, operation)
    return tensor


@torch.no_grad()
def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes, in one exchange.

    Losses are means over equal slices of the batch, so this is the whole batch's gradient. DistributedDataParallel
    would have to own forward(), which the objectives bypass, and to search each step's graph for the gates in it.
    """
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = all_reduce_mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
