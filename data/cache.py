"""Decoded copies of image files, memory-mapped, so that reading a crop costs a crop (`--ext sep`)."""

import contextlib
import functools
import io
import logging
import math
import os
import re
import stat
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.contrib.concurrent import thread_map

from data.images import image_shape, read_image
from utility import UserError, atomic_path, remove_unfinished

log = logging.getLogger(__name__)

FOLDER = "decoded"
COPY_NAME = re.compile(r"(.+?)(?:\.[0-9]+-[0-9]+(?:-[0-9a-f]{8})?)?\.npy")  # of an image as it is or once was
SAMPLES, SAMPLE = 8, 1024  # parts of a file, bytes of each, that tell it from one of the same size and time
MAPPED_AT_MOST = 16_384  # images; Linux allows a process some 65,000 mappings


class DecodedCache:
    """Keeps <root>/decoded/<folder>/<image>.<what it is>.npy for each <root>/<folder>/<image>, and reads those.

    A copy is a NumPy file of uint8 [h, w, 3], named by size, modification time (ns) and samples of the bytes of the
    image it was made from: of an image that has changed, or has another one's name, there is none. Files appear whole
    under their names, so any number of processes may prepare the same folder. Reading one never runs code.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._copies = {}  # image: its copy; whoever reads maps it, a worker by itself

    def prepare(self, images: list[Path], *, threads: int = 1, rebuild: bool = False) -> None:
        """Make the copies that are missing, or all with `rebuild`, with a progress bar on a terminal.

        images: list of Path below the root. Where the folder cannot be written (read-only, disk full), the images left
        go without, with a warning in the log: `read` decodes them each time. Raises UserError for a broken image.
        """
        former = {image: self._written(image) for image in images} if rebuild else {}
        missing = [image for image in images if rebuild or not self._adopt(image)]
        if not missing:
            return
        remove_unfinished(self.root / FOLDER)
        log.info("%s: decoding %d images into %s", self.root, len(missing), self.root / FOLDER)
        try:  # in threads, since Pillow decodes without holding Python's lock
            self._remove_former(missing)
            thread_map(partial(self._store, former=former), missing, max_workers=threads, desc="decoding",
                       unit=" images", disable=None)
        except OSError as error:
            reason = error.strerror or error
            log.warning("%s: %s; images without a copy are decoded at every read, which is slow", self.root, reason)
        _mapped.cache_clear()  # of copies that are others now

    def read(self, image: Path) -> np.ndarray:
        """The pixels of an image file, uint8 [h, w, 3]: mapped and read-only when there is a copy, else decoded."""
        try:
            return _mapped(*self._copies[image])
        except (KeyError, OSError, RuntimeError):  # there is no copy, or it has gone or is another by now
            return read_image(image)

    def _adopt(self, image):
        """Use the copy of `image` if it is there and of the image's shape."""
        try:
            copy, shape = self._copy(image), (*image_shape(image), 3)
            header = _header(shape)
            if os.stat(copy).st_size != len(header) + math.prod(shape):  # pipes have no size
                return False
            with open(copy, "rb") as file:
                if file.read(len(header)) != header:
                    return False
        except (OSError, UserError):  # the image's own faults show when it is decoded
            return False
        self._copies[image] = copy, len(header), shape
        return True

    def _store(self, image, former):
        replaced = image not in former or self._written(image) != former[image]
        if replaced and self._adopt(image):  # another process was faster
            return
        copy = self._copy(image)  # of the image as it is now, before it is read
        pixels = read_image(image)
        with atomic_path(copy) as temporary, open(temporary, "wb") as file:
            np.save(file, pixels, allow_pickle=False)
        self._adopt(image)

    def _copy(self, image):
        status, samples = os.stat(image), 0
        if stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            with open(image, "rb", buffering=0) as file:
                for number in range(SAMPLES):
                    file.seek(status.st_size * number // SAMPLES)
                    samples = zlib.crc32(file.read(SAMPLE), samples)
        return f"{self._place(image)}.{status.st_size}-{status.st_mtime_ns}-{samples:08x}.npy"

    def _written(self, image):
        """What tells one writing of a copy from another, also where clocks differ; None where there is no copy."""
        with contextlib.suppress(OSError):
            status = os.stat(self._copy(image))
            return status.st_ino, status.st_mtime_ns

    def _place(self, image):
        return self.root / FOLDER / image.relative_to(self.root)

    def _remove_former(self, images):
        """Delete copies that were made of these images when they were others."""
        copies = {self._place(image): self._copy(image) for image in images}
        for folder in {place.parent for place in copies}:
            for file in folder.glob("*.npy"):
                found = COPY_NAME.fullmatch(file.name)  # None of files that others put there
                copied = folder / found[1] if found else None
                if copied in copies and str(file) != copies[copied]:
                    with contextlib.suppress(OSError):  # another process was faster, or the disk is read-only
                        file.unlink()


def _header(shape):
    """How a NumPy file of uint8 begins."""
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return start.getvalue()


@functools.lru_cache(MAPPED_AT_MOST)
def _mapped(copy, start, shape):
    """The array of `shape` from byte `start` on. PyTorch's mapping holds no file descriptor, which would run out.

    Raises OSError or RuntimeError where the file has gone or has another size.
    """
    size = start + math.prod(shape)
    if os.stat(copy).st_size != size:  # to open what may be a pipe by now would wait for ever
        raise OSError(f"{copy}: has changed")
    content = torch.from_file(copy, shared=False, size=size, dtype=torch.uint8).numpy()
    content.flags.writeable = False
    return content[start:].reshape(shape)
