"""A clock that is stopped and goes on."""

import time


class Timer:
    """Seconds spent between `tic` and `toc`, summed until `release` reads and clears them."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._start = time.perf_counter()

    def tic(self) -> None:
        self._start = time.perf_counter()

    def toc(self) -> None:
        self._sum += time.perf_counter() - self._start

    def release(self) -> float:
        seconds, self._sum = self._sum, 0.0
        return seconds
