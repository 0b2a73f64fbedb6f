"""Train full-precision networks, and test any; `python main_ori.py --help` lists the flags."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until run_main answers it: imports take seconds, some lose a Ctrl-C

import contextlib
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import loss
import model
from data.build import build_test_sets, build_train_loader
from data.datasets import EvalSet
from engine.device import channels_last
from engine.evaluator import Evaluator
from engine.optimizer import build_optimizer, build_scheduler
from engine.recorder import Recorder
from engine.run import open_run
from engine.run_folder import RunFolder
from loss.supervised import Supervised
from model import parallel
from model.common import SuperResolver, compiler_lacks
from model.interpolation import start_as_interpolation
from model.saved import file_at, file_hash, file_of_run
from option import (
    LIGHTER,
    config_text,
    experiment_folder,
    means_pre_train,
    network_flags,
    options_to_keep,
    parse_options,
    variant_of,
)
from quant.deploy.onnx_backend import OnnxNetwork
from quant.distill import Distillation
from quant.open import load_weights, open_network
from trainer import Trainer
from utility import UserError, run_main

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv). Returns the exit code; a user's mistake raises UserError."""
    return run(parse_options(argv, quantized=False))


def run(options: Namespace) -> int:
    """Train and test a full-precision network by parsed options."""
    with run_context(options) as (folder, device):
        if options.test_only:
            return test(options, folder, device)
        network = model.build(options)
        if options.init == "interpolation":
            start_as_interpolation(network)
        network = channels_last(network.to(device))
        evaluator = build_evaluator(options, build_test_sets(options), folder, device)
        continued_from = options.resume or options.load and folder.to_continue()
        if options.refine and not continued_from:
            load_weights(network, options.refine, "--refine")
        elif options.pre_train and not continued_from:
            load_weights(network, options.pre_train, "--pre_train", any_scale=True)
        patch_size = options.patch_size // options.scale * options.scale
        objective = Supervised(loss.build(options.loss, rgb_range=options.rgb_range, patch_size=patch_size,
                                          gan_k=options.gan_k, vgg_weights=options.vgg_weights, device=device),
                               compiler="inductor" if options.compile else None)
        train(network, objective, [p for p in network.parameters() if p.requires_grad], evaluator, options,
              continued_from=continued_from, folder=folder, device=device)
    return 0


@contextlib.contextmanager
def run_context(options: Namespace) -> Iterator[tuple[RunFolder, torch.device]]:
    """What both programs begin with: (RunFolder, device)."""
    path = experiment_folder(options.load or options.save)
    with parallel.joined(n_gpus=options.n_GPUs, test_only=options.test_only, cpu=options.cpu), open_run(
            path, config_text=lambda: config_text(options), notes=options.notes,
            test_only=options.test_only, load=bool(options.load), resume=options.resume, reset=options.reset,
            seed=options.seed, deterministic=options.deterministic, cpu=options.cpu,
            gpu_id=options.gpu_id) as (folder, device):
        yield folder, device


def test(options: Namespace, folder: RunFolder, device: torch.device) -> int:
    """Test one network. Its file decides its settings, which replace those of `options`.

    Returns the exit code, 1 where a user's picture was left out.
    """
    given, defaults = network_flags(options)
    network: Any  # a SuperResolver, or an OnnxNetwork, which is called alike
    if options.backend != "torch":
        file = Path(options.refine)
        network = OnnxNetwork(file, runtime=options.backend).check(given)
        sha256 = network.sha256
    else:
        named, flag = weights_to_test(options, folder)
        file = file_at(named, flag)
        # before it is opened: a run that trains may replace it
        sha256 = file_hash(file) if options.continue_test else ""
        network = open_network(file, flag=flag, defaults=defaults, **given).to(device)
        network = channels_last(network) if network.source.quant is None else network
    vars(options).update(network.source.flags)
    test_sets = build_test_sets(options)
    tested = {**network.source.flags, "sha256": sha256} if options.continue_test else None
    folder.begin()
    results = build_evaluator(options, test_sets, folder, device, file=folder.name_of(file), tested=tested)(network, 0)
    return int(any(results[test_set.name]["images"] < len(test_set) for test_set in test_sets))


def build_evaluator(options: Namespace, test_sets: Sequence[EvalSet], folder: RunFolder, device: torch.device, *,
                    file: str = "", tested: Mapping[str, Any] | None = None) -> Evaluator:
    """The test pass that the options ask for. file, tested: as Evaluator's."""
    return Evaluator(test_sets, run=folder, device=device, model=options.model, scale=options.scale,
                     k_bits=options.k_bits, variant=variant_of(options), rgb_range=options.rgb_range,
                     chop_size=options.chop_size if options.chop else None, self_ensemble=options.self_ensemble,
                     half=options.precision == "half", backend=options.backend, file=file,
                     save_results=options.save_results, save_gt=options.save_gt, tested=tested)


def weights_to_test(options: Namespace, folder: RunFolder) -> tuple[str | Path, str]:
    """(file, flag) of what --test_only tests: --refine, else --resume, else the run that --load or --save names.

    In full precision --pre_train counts too, as in EDSR-PyTorch, if no run is named that has bits. Raises UserError
    when there is nothing to test.
    """
    if options.refine:
        return options.refine, "--refine"
    if options.resume:
        return options.resume, "--resume"
    if means_pre_train(options):
        return options.pre_train, "--pre_train"
    flag = "--load" if options.load else "--save"
    return file_of_run(folder.path, flag), flag


def train(network: SuperResolver, objective: Supervised | Distillation, groups: list[Any], evaluator: Evaluator,
          options: Namespace, *, continued_from: str | Path | None, folder: RunFolder, device: torch.device) -> None:
    """Train by `objective`, on from the checkpoint `continued_from` where there is one. groups: the optimizer's."""
    optimizer = build_optimizer(groups, name=options.optimizer, lr=options.lr, weight_decay=options.weight_decay,
                                momentum=options.momentum, betas=options.betas, epsilon=options.epsilon)
    trainer = Trainer(
        network, objective, loader=build_train_loader(options, rank=parallel.rank(), world_size=parallel.world_size()),
        optimizer=optimizer, scheduler=build_scheduler(optimizer, decay=options.decay, gamma=options.gamma),
        evaluator=evaluator, recorder=Recorder(folder), run=folder, device=device, epochs=options.epochs,
        print_every=options.print_every, checkpoint_every=options.checkpoint_every, save_models=options.save_models,
        gclip=options.gclip, amp=options.amp, run_options=options_to_keep(options))
    if not any(test_set.has_hr for test_set in evaluator.test_sets):
        log.warning("warning: no set of --data_test has HR images, so no best network can be counted")
    if continued_from:
        trainer.resume(continued_from)
    try:
        trainer.fit()
    except RuntimeError as error:
        if options.compile and (lack := compiler_lacks(error)):
            raise UserError(f"--compile: {lack:.200}; install what is missing, or leave the flag out") from error
        raise


if __name__ == "__main__":
    sys.exit(run_main(main, lighter=LIGHTER))
