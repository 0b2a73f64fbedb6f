"""A DataLoader whose workers write into shared memory that stays, and leave errors and signals to the main process.

PyTorch's own way makes new shared memory for each batch, which takes longer than to cut the patches.
"""

import os
import signal
import threading
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from data.patches import to_values
from utility import UserError

PREFETCH = 2  # batches under way for each worker


class TrainLoader(DataLoader):
    """Batches (lr, hr, names) of a TrainSet in the order of its sampler, for any number of workers the same ones.

    lr, hr: float32 as `data.patches.to_values` gives them with these rgb_range, n_colors and pinned.
    A broken image file raises the UserError that names it. PyTorch's global random state is left alone.
    """

    def __init__(self, train_set, sampler, *, n_threads, rgb_range=255, n_colors=3, pinned=False):
        slots = BatchSlots(train_set, sampler, count=PREFETCH * n_threads + 1)
        super().__init__(
            slots,
            batch_size=sampler.share,
            sampler=sampler,
            num_workers=n_threads,
            prefetch_factor=PREFETCH if n_threads else None,
            persistent_workers=n_threads > 0,
            collate_fn=_as_it_is,
            worker_init_fn=_obey_the_parent_only,
            generator=torch.Generator(),  # without one, each iter() would draw from the global generator
        )
        self._to_values = partial(to_values, rgb_range=rgb_range, n_colors=n_colors, pinned=pinned)

    def check_worker_number_rationality(self):
        """Says nothing: --n_threads is the user's choice, and more workers than cores only cost a little speed."""

    def __iter__(self):
        return map(self._finish, super().__iter__())

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

    def __init__(self, train_set, sampler, *, count):
        self.train_set = train_set
        self.batch_size = sampler.batch_size
        shape = (count, sampler.share, 3)
        self.lr = torch.empty(*shape, *2 * [train_set.lr_patch], dtype=torch.uint8).share_memory_()
        self.hr = torch.empty(*shape, *2 * [train_set.hr_patch], dtype=torch.uint8).share_memory_()

    def __len__(self):
        return len(self.train_set)

    def __getitems__(self, keys):
        slot = keys[0].position // self.batch_size % len(self.lr)
        names = []
        for lr_place, hr_place, key in zip(self.lr[slot].numpy(), self.hr[slot].numpy(), keys, strict=True):
            try:
                lr_place[:], hr_place[:], name = self.train_set[key]
            except UserError as error:
                return error
            names.append(name)
        return slot, names


def _as_it_is(batch):
    return batch


def _obey_the_parent_only(_worker):
    """Signals sent to the whole group (Ctrl-C, `timeout`, a scheduler) are for the main process to act on.

    It finishes its step and saves, for which it needs the workers; SIGTERM from itself still ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS and Windows have none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_at_the_parents_word, daemon=True).start()


def _exit_at_the_parents_word():
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
