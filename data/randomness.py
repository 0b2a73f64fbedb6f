"""Random numbers that depend on nothing but what they are for, so that workers, ranks and resumed runs agree."""

import numpy as np

VISITING_ORDER, CROP = range(2)


def random_words(purpose: int, *key: int, count: int) -> np.ndarray:
    """`count` uniform uint64, a pure function of `purpose` (a constant of this module) and the whole numbers `key`.

    SeedSequence is used for its words alone: NumPy keeps those the same in all its versions, unlike a Generator's.
    """
    entropy = [number % 2**64 for number in key]
    return np.random.SeedSequence(entropy, spawn_key=(purpose,)).generate_state(count, np.uint64)
