"""What a run computes on: the device, the seeds, how repeatably."""

import logging
import os
import random
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from model import parallel
from utility import UserError

Network = TypeVar("Network", bound=nn.Module)
log = logging.getLogger(__name__)


def choose_device(*, cpu: bool = False, gpu_id: int = 0) -> torch.device:
    """CUDA's device `gpu_id`, else Apple's GPU, else the CPU; with `cpu` always the CPU.

    Each of several processes has the GPU of its own number. Raises UserError for a number that this machine lacks,
    and for one given to several processes.
    """
    if cpu:
        return torch.device("cpu")
    if gpu_id and parallel.world_size() > 1:
        raise UserError(f"--gpu_id {gpu_id}: each process has the GPU of its own number; choose them by "
                        "CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_available():
        number, reason = gpu_id, f"--gpu_id {gpu_id}"
        if parallel.world_size() > 1:
            number, reason = parallel.local_rank(), f"process {parallel.local_rank()} of this machine"
        if number >= torch.cuda.device_count():
            raise UserError(f"{reason}: this machine has {torch.cuda.device_count()} CUDA devices")
        torch.cuda.set_device(number)
        return torch.device("cuda", number)
    if torch.backends.mps.is_available() and parallel.world_size() == 1:
        return torch.device("mps")
    log.info("no CUDA device here: running on the CPU")
    return torch.device("cpu")


def wait_for(device: torch.device) -> None:
    """Return when the device has finished its work; a time that is taken earlier means nothing."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def set_seed(seed: int) -> None:
    """Seed every generator in use: Python's, NumPy's and torch's, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def channels_last(network: Network) -> Network:
    """The network with its weights, and so all its features, in channels-last order where that pays: on the CPU.

    Steps in bfloat16: 1.03 (RDN) to 1.15 (SRResNet x4) times as many a second; on GPUs it was not measured.
    """
    on_cpu = next(network.parameters()).device.type == "cpu"
    return network.to(memory_format=torch.channels_last) if on_cpu else network


def use_deterministic_algorithms() -> None:
    """Make CUDA repeat itself bit for bit, at some speed; the CPU does so anyway.

    torch warns of what has no deterministic form. It counts kthvalue among these, of which only the index varies.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
