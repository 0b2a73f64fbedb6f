"""A DataLoader whose workers leave float values, errors and signals to the main process.

Samples travel as bytes: shared memory for float32 is four times as large, and filling it took more than all the rest.
"""

import os
import signal
import threading
from functools import partial

import torch
from torch.utils.data import DataLoader, default_collate

from data.patches import to_values
from utility import UserError


class TrainLoader(DataLoader):
    """Batches (lr, hr, names) of a TrainSet in the order of its sampler, for any number of workers the same ones.

    lr, hr: float32 as `data.patches.to_values` gives them with these rgb_range, n_colors and pinned.
    A broken image file raises the UserError that names it. PyTorch's global random state is left alone.
    """

    def __init__(self, train_set, sampler, *, n_threads, rgb_range=255, n_colors=3, pinned=False):
        super().__init__(
            train_set,
            batch_size=sampler.share,
            sampler=sampler,
            num_workers=n_threads,
            persistent_workers=n_threads > 0,
            collate_fn=_collate,
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
        lr, hr, names = batch
        return self._to_values(lr), self._to_values(hr), names


def _collate(samples):
    return next((sample for sample in samples if isinstance(sample, UserError)), None) or default_collate(samples)


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
