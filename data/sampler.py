"""Which training image each sample of an epoch shows, for one rank of any number, from any batch on.

Random numbers depend on nothing but what they are for, so that workers, ranks and resumed runs agree.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

VISITING_ORDER, CROP = range(2)  # purposes of random numbers


def random_words(purpose: int, *key: int, count: int) -> np.ndarray:
    """`count` uniform uint64, a pure function of `purpose` and the whole numbers `key`.

    SeedSequence is used for its words alone: NumPy keeps those the same in all its versions, unlike a Generator's.
    """
    entropy = [number % 2**64 for number in key]
    return np.random.SeedSequence(entropy, spawn_key=(purpose,)).generate_state(count, np.uint64)


class SampleKey(NamedTuple):
    """One sample: its number `position` in the whole of an epoch, over all ranks, and the number of its image."""

    epoch: int
    position: int
    image: int


class TrainSampler:
    """Yields the SampleKeys of this rank, batch after batch; `set_position` says where the next `iter()` starts.

    An epoch goes through all images in a random order, then in another one, until it has n_batches * batch_size
    samples. Rank r of W takes the r-th slice of batch_size / W samples of every batch, so that all ranks together see
    what one process would; batch_size is a multiple of W. Nothing is drawn from a generator: each key follows from
    (seed, epoch, position).
    """

    def __init__(self, n_images: int, *, seed: int, batch_size: int, n_batches: int, rank: int = 0,
                 world_size: int = 1) -> None:
        self.n_images, self.seed, self.rank = n_images, seed, rank
        self.batch_size, self.n_batches, self.share = batch_size, n_batches, batch_size // world_size
        self.set_position(epoch=1)

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Let `iter()` start at that batch of that epoch, until told otherwise; batch n_batches leaves nothing."""
        self.epoch, self.batch = epoch, batch

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch."""
        return self.n_batches * self.share

    def __iter__(self) -> Iterator[SampleKey]:
        return self._keys(self.epoch, self.batch)

    def _keys(self, epoch, first_batch):
        round_in_order = None
        for batch in range(first_batch, self.n_batches):
            start = batch * self.batch_size + self.rank * self.share
            for position in range(start, start + self.share):
                round_, place = divmod(position, self.n_images)
                if round_ != round_in_order:
                    order, round_in_order = self._order(epoch, round_), round_
                yield SampleKey(epoch, position, int(order[place]))

    def _order(self, epoch, round_):
        """A permutation of the images."""
        words = random_words(VISITING_ORDER, self.seed, epoch, round_, count=self.n_images)
        return np.argsort(words, kind="stable")
