"""NumPy's percentiles, which bounds start from."""

import numpy as np
import pytest


def numpy_percentile(x, q):
    """numpy.percentile, to compare with a Python number.

    Before 2.4, NumPy took the share between two float32 values from a place that it had rounded to float32: what is
    right there is the percentile in float64, up to the last bit.
    """
    x = np.asarray(x)
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0" or x.dtype != np.float32:
        return np.percentile(x, q).item()
    return pytest.approx(np.percentile(x.astype(np.float64), q).item(), rel=3e-7, abs=1e-7)
