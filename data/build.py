"""From options to the training loader and the test sets: the only file of `data` that knows options."""

import logging
from argparse import Namespace

import torch

from data.cache import DecodedCache
from data.datasets import EvalSet, TrainSet
from data.image_sets import find_test_sets, find_training_sets
from data.images import read_image
from data.loader import TrainLoader
from data.pair_check import check_apart, check_pairs
from data.sampler import TrainSampler
from utility import UserError

log = logging.getLogger(__name__)


def build_train_loader(options: Namespace, *, rank: int = 0, world_size: int = 1) -> TrainLoader:
    """Batches (lr [B, c, p, p], hr [B, c, s*p, s*p], names) of the sets in options.data_train together.

    B = batch_size / world_size, p = patch_size // scale; float32 in 0..rgb_range. len() is options.test_every.
    `loader.sampler.set_position(epoch, batch)` says where the next iter() starts. Images are found, paired, and checked
    for size here, and then decoded into the cache with --ext sep or sep_reset. Raises UserError.
    """
    if options.batch_size % world_size:
        raise UserError(f"--batch_size {options.batch_size}: cannot be shared by {world_size} processes equally")
    image_sets = _training_sets(options)
    for image_set in image_sets:
        check_pairs(image_set.pairs, scale=options.scale, patch_size=options.patch_size)
    sources = []
    for image_set in image_sets:
        log.info(image_set.note)
        read = _reader(image_set, options, start=rank / world_size)
        sources += [(pair, read) for pair in image_set.pairs]
    train_set = TrainSet(sources, scale=options.scale, lr_patch=options.patch_size // options.scale, seed=options.seed,
                         augmented=not options.no_augment)
    sampler = TrainSampler(len(sources), seed=options.seed, batch_size=options.batch_size,
                           n_batches=options.test_every, rank=rank, world_size=world_size)
    return TrainLoader(train_set, sampler, n_threads=options.n_threads, rgb_range=options.rgb_range,
                       n_colors=options.n_colors, pinned=not options.cpu and torch.cuda.is_available())


def build_test_sets(options: Namespace) -> list[EvalSet]:
    """An EvalSet for each name in options.data_test, in that order; all are checked before one is decoded.

    Unless options.test_only, none of their images may be one to train with. Raises UserError.
    """
    image_sets = find_test_sets(options.dir_data, options.data_test, scale=options.scale,
                                data_range=options.data_range, dir_demo=options.dir_demo, test_only=options.test_only)
    for image_set in image_sets:
        check_pairs(image_set.pairs, scale=options.scale, tested_border=image_set.border(options.scale))
    if not options.test_only:
        check_apart(_training_sets(options), image_sets, options.data_range)
    test_sets = []
    for image_set in image_sets:
        if image_set.note:
            log.info(image_set.note)
        read = read_image if image_set.name == "Demo" else _reader(image_set, options)
        test_sets.append(EvalSet(image_set, read, scale=options.scale, rgb_range=options.rgb_range,
                                 n_colors=options.n_colors))
    return test_sets


def _training_sets(options):
    return find_training_sets(options.dir_data, options.data_train, scale=options.scale, data_range=options.data_range)


def _reader(image_set, options, *, start=0.0):
    """A function from path to pixels, by way of decoded copies unless --ext is img.

    start: where in the list to begin decoding, 0..1; ranks that begin at different places share the work.
    """
    if options.ext == "img":
        return read_image
    images = [path for pair in image_set.pairs for path in (pair.lr, pair.hr)]
    begin = int(start * len(images))
    cache = DecodedCache(image_set.root)
    rebuild = options.ext == "sep_reset"
    cache.prepare(images[begin:] + images[:begin], threads=max(1, options.n_threads), rebuild=rebuild)
    return cache.read
