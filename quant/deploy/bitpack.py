"""Small whole numbers packed tight into bytes."""

from collections.abc import Sequence

import numpy as np


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers 0 <= v < 2**bits of any shape, in row order, to uint8 [ceil(count * bits / 8)].

    The lowest bit of the first value is the lowest bit of the first byte; what remains of the last byte is 0.
    """
    values = np.asarray(values).reshape(-1, 1)
    if values.size and not 0 <= values.min() <= values.max() < 2**bits:
        raise ValueError(f"values {values.min()}..{values.max()} do not fit {bits} bits")
    return np.packbits(values.astype(np.uint16) >> np.arange(bits, dtype=np.uint16) & 1, bitorder="little")


def unpack_bits(packed: np.ndarray, bits: int, shape: Sequence[int]) -> np.ndarray:
    """What `pack_bits` packed, as int64 in `shape`. Raises ValueError when the bytes hold another count."""
    count = int(np.prod(shape))
    if packed.dtype != np.uint8 or packed.shape != (-(-count * bits // 8),):
        raise ValueError(f"{packed.dtype} {list(packed.shape)} can't hold {count} values of {bits} bits")
    digits = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return (digits.astype(np.int64) << np.arange(bits)).sum(1).reshape(shape)
