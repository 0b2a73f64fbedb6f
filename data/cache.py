"""Decoded copies of image files, memory-mapped, so that reading a crop costs a crop (`--ext sep`)."""

import logging
import math
import os
import stat
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.contrib.concurrent import thread_map

from data.images import image_shape, read_image
from utility import atomic_path, remove_unfinished

log = logging.getLogger(__name__)

FOLDER = "decoded"
MAPPED_AT_MOST = 16_384  # images; Linux allows a process some 65,000 mappings


class DecodedCache:
    """Keeps <root>/decoded/<folder>/<image>.npy for each <root>/<folder>/<image>, and reads those.

    A copy is a NumPy file of uint8 [h, w, 3], followed by size and modification time of the image it was made from;
    it is made anew when the image has changed or the file is not whole. Files appear whole under their names, so any
    number of processes may prepare the same folder. Reading one never runs code. (np.load keeps a file descriptor for
    each mapped copy, and to open one anew takes longer than to cut a patch.)
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._copies = {}  # image: where its pixels lie, the arguments of _map
        self._mapped = {}

    def __getstate__(self) -> dict[str, Any]:
        """What a worker is given: which copies there are. It maps them by itself."""
        return vars(self) | {"_mapped": {}}

    def prepare(self, images: list[Path], *, threads: int = 1, rebuild: bool = False) -> None:
        """Make the copies that are missing, or all with `rebuild`, with a progress bar on a terminal.

        images: list of Path below the root. Where the folder cannot be written (read-only, disk full), the images left
        go without, with a warning in the log: `read` decodes them each time. Raises UserError for a broken image.
        """
        since = time.time_ns() if rebuild else 0
        missing = [image for image in images if not self._adopt(image, since)]
        if not missing:
            return
        remove_unfinished(self.root / FOLDER)
        log.info("%s: decoding %d images into %s", self.root, len(missing), self.root / FOLDER)
        try:  # in threads, since Pillow decodes without holding Python's lock
            thread_map(partial(self._store, since=since), missing, max_workers=threads, desc="decoding",
                       unit=" images", disable=None)
        except OSError as error:
            reason = error.strerror or error
            log.warning("%s: %s; images without a copy are decoded at every read, which is slow", self.root, reason)

    def read(self, image: Path) -> np.ndarray:
        """The pixels of an image file, uint8 [h, w, 3]: mapped and read-only when there is a copy, else decoded."""
        if image not in self._mapped:
            try:
                pixels = _map(*self._copies[image])
            except (KeyError, OSError, RuntimeError):  # there is no copy, or it has gone or is another by now
                return read_image(image)
            if len(self._mapped) >= MAPPED_AT_MOST:
                self._mapped.clear()
            self._mapped[image] = pixels
        return self._mapped[image]

    def _store(self, image, since):
        if self._adopt(image, since):  # another process was faster
            return
        stamp = _stamp(image)
        pixels = read_image(image)
        with atomic_path(self._file(image)) as temporary, open(temporary, "wb") as file:
            np.save(file, pixels, allow_pickle=False)
            file.write(stamp)
        self._adopt(image)

    def _adopt(self, image, since=0):
        """Use the copy of `image` if it is whole, of the image as it is now, and no older than `since` (ns)."""
        file = self._file(image)
        try:
            status = os.stat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_mtime_ns < since:  # a FIFO would never answer
                return False
            shape = (*image_shape(image), 3)
            with open(file, "rb") as opened:
                np.lib.format.read_magic(opened)
                header = np.lib.format.read_array_header_1_0(opened)
                offset = opened.tell()
                opened.seek(offset + math.prod(shape))
                if header != (shape, False, np.dtype(np.uint8)) or opened.read(100) != _stamp(image):
                    return False
        except Exception:  # what anybody may have put there fails in nearly any way; the image's own faults show later
            return False
        self._mapped.pop(image, None)
        self._copies[image] = (file, status.st_size, shape, offset)
        return True

    def _file(self, image):
        image = image.relative_to(self.root)
        return self.root / FOLDER / image.parent / f"{image.name}.npy"


def _map(file, file_size, shape, offset):
    """The array of `shape` from byte `offset` on. PyTorch's mapping holds no file descriptor, which would run out.

    Raises OSError or RuntimeError where the file has gone or has another size.
    """
    if os.stat(file).st_size != file_size:
        raise OSError(f"{file}: has changed")
    content = torch.from_file(str(file), shared=False, size=offset + math.prod(shape), dtype=torch.uint8).numpy()
    content.flags.writeable = False
    return content[offset:].reshape(shape)


def _stamp(image):
    status = os.stat(image)
    return f"{status.st_size} {status.st_mtime_ns}".encode()
