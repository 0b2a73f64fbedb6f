"""Training samples and test images as tensors.

Samples are 8-bit, a quarter of what they become, until they have left the worker: see `data.loader`.
"""

from torch.utils.data import Dataset

from data.patches import augment, crop_pair, to_planes, to_values
from data.randomness import CROP, random_words
from utility import UserError


class TrainSet(Dataset):
    """Random patches of images; item SampleKey is a pure function of (seed, key), whoever asks for it.

    sources: list of (Pair, read), where read(path) gives the file's pixels, uint8 [h, w, 3].
    An item is (lr [3, p, p], hr [3, scale*p, scale*p], name), uint8 with p = lr_patch; or a UserError, given instead of
    raised because it is to cross from a worker to the main process as it is.
    """

    def __init__(self, sources, *, scale, lr_patch, seed, augmented=True):
        self.sources = sources
        self.scale = scale
        self.lr_patch = lr_patch
        self.seed = seed
        self.augmented = augmented

    def __len__(self):
        return len(self.sources)

    def __getitem__(self, key):
        pair, read = self.sources[key.image]
        try:
            lr, hr = read(pair.lr), read(pair.hr)
        except UserError as error:
            return error
        *place, turns = random_words(CROP, self.seed, key.epoch, key.position, count=3)
        patches = crop_pair(lr, hr, scale=self.scale, lr_patch=self.lr_patch, place=place)
        if self.augmented:
            patches = [augment(patch, int(turns)) for patch in patches]
        return *(to_planes(patch) for patch in patches), pair.name


class EvalSet:
    """Whole images of a set, in order: a sequence of (lr [n_colors, h, w], hr [n_colors, s*h, s*w] or None, name).

    Values are float32 in 0..rgb_range; HR is cut to scale times LR. name: bare, fit to be part of a file name.
    has_hr: whether there are HR images. luma: True where PSNR is taken on luma with border = scale, False (DIV2K) where
    on RGB with border = scale + 6. An item raises UserError when its file is broken.
    """

    def __init__(self, image_set, read, *, scale, rgb_range=255, n_colors=3):
        self.name = image_set.name
        self.luma = image_set.luma
        self.has_hr = image_set.pairs[0].hr is not None
        self.pairs = image_set.pairs
        self.read = read
        self.scale = scale
        self.colours = {"rgb_range": rgb_range, "n_colors": n_colors}

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        pair = self.pairs[index]
        lr = self.read(pair.lr)
        if pair.hr is None:
            return self._values(lr), None, pair.name
        height, width = (self.scale * length for length in lr.shape[:2])
        hr = self.read(pair.hr)[:height, :width]
        return self._values(lr), self._values(hr), pair.name

    def _values(self, image):
        return to_values(to_planes(image), **self.colours)
