"""A DataLoader whose workers write into shared memory that stays, and leave errors and signals to the main process.

A plain DataLoader over the same memory-mapped cache takes 2.4 to 3.1 times as long for a patch with one worker
(benchmarks/data_loading.py): it makes new shared memory, or sends the bytes through a pipe, for each batch.
"""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset, default_convert

from data.datasets import TrainSet
from data.pictures import to_values
from data.sampler import SampleKey, TrainSampler
from utility import UserError, first_line

SPARE_QUEUES = 4  # besides one a worker
PREFETCH = 2  # batches under way for each worker
FOR_THE_PARENT = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class TrainLoader(DataLoader):
    """Batches (lr, hr, names) of a TrainSet in the order of its sampler, for any number of workers the same ones.

    lr, hr: float32 as `data.pictures.to_values` gives them with these rgb_range, n_colors and pinned.
    A broken image file raises the UserError that names it, and so do workers that can't be had. A worker that is killed
    raises PyTorch's RuntimeError. PyTorch's global random state is left alone.
    """

    def __init__(self, train_set: TrainSet, sampler: TrainSampler, *, n_threads: int, rgb_range: float = 255,
                 n_colors: int = 3, pinned: bool = False) -> None:
        with _workers_or_one_line(n_threads):
            slots = BatchSlots(train_set, sampler, count=PREFETCH * n_threads + 1, shared=n_threads > 0)
            if n_threads:  # PyTorch will want as many, and leaves a traceback where it fails half-way
                [multiprocessing.Queue() for _ in range(n_threads + SPARE_QUEUES)]
        super().__init__(
            slots, batch_size=sampler.share, sampler=sampler, num_workers=n_threads, collate_fn=default_convert,
            prefetch_factor=PREFETCH if n_threads else None, persistent_workers=n_threads > 0,
            worker_init_fn=_obey_the_parent_only,
            generator=torch.Generator(),  # without one, each iter() would draw from the global generator
        )
        # other images, or another order of them, have another one
        self.images_hash = hashlib.sha256(repr(train_set.files()).encode()).hexdigest()
        self._to_values = partial(to_values, rgb_range=rgb_range, n_colors=n_colors, pinned=pinned)

    def check_worker_number_rationality(self) -> None:
        """Says nothing: --n_threads is the user's choice, and more workers than cores only cost a little speed."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[str]]]:  # type: ignore[override]
        with _workers_or_one_line(self.num_workers), _blocked(FOR_THE_PARENT):
            batches = super().__iter__()
        return map(self._finish, batches)

    def _finish(self, batch):
        if isinstance(batch, UserError):
            raise batch
        slot, names = batch
        return self._to_values(self.dataset.lr[slot]), self._to_values(self.dataset.hr[slot]), names


class BatchSlots(Dataset):
    """A TrainSet read by the batch, into shared memory; what goes through PyTorch's queue is the number of a slot.

    Batch n of an epoch lies in slot n % count. With one slot more than PyTorch lets batches be under way, a batch stays
    until the next one is asked for. A UserError is returned, not raised: PyTorch would wrap it in a traceback.
    """

    def __init__(self, train_set: TrainSet, sampler: TrainSampler, *, count: int, shared: bool) -> None:
        self.train_set = train_set
        self.batch_size = sampler.batch_size
        self.lr, self.hr = (torch.empty(count, sampler.share, 3, side, side, dtype=torch.uint8)
                            for side in (train_set.lr_patch, train_set.hr_patch))
        if shared:
            self.lr.share_memory_()
            self.hr.share_memory_()

    def __getitems__(self, keys: Sequence[SampleKey]) -> tuple[int, list[str]] | UserError:
        slot = keys[0].position // self.batch_size % len(self.lr)
        names = []
        for lr_place, hr_place, key in zip(self.lr[slot].numpy(), self.hr[slot].numpy(), keys, strict=True):
            try:
                lr_place[:], hr_place[:], name = self.train_set[key]
            except UserError as error:
                return error
            names.append(name)
        return slot, names


@contextlib.contextmanager
def _workers_or_one_line(n_threads):
    """Turn a lack of shared memory, processes or threads for workers into a UserError; without workers nothing."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if n_threads == 0:
            raise
        reason = getattr(error, "strerror", None) or first_line(str(error))
        raise UserError(f"--n_threads {n_threads}: workers can't be had ({reason}); make /dev/shm larger and writable "
                        "(docker run --shm-size), allow more processes, or lower it: 0 needs neither") from error


@contextlib.contextmanager
def _blocked(numbers):
    """Block signals in this thread, and so in all of a process that is started meanwhile, from its first moment on."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_the_parent_only(_worker):
    """Signals sent to the whole group (Ctrl-C, `timeout`, a scheduler) are for the main process to act on.

    It finishes its step and saves, for which it needs the workers; SIGTERM from itself still ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS and Windows have none
        signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)
        threading.Thread(target=_exit_at_the_parents_word, daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _exit_at_the_parents_word():
    parent = multiprocessing.parent_process().pid  # os.getppid() may be a server that forks
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
