"""Train and test full-precision networks; `python main_ori.py --help` lists the flags."""

import sys

import data
import loss
import model
from engine.device import channels_last
from engine.evaluator import Evaluator
from engine.recorder import Recorder
from engine.run_folder import open_run
from loss.supervised import Supervised
from model.parallel import joined
from model.weights import checkpoint_to_continue, weights_to_test
from option import config_text, experiment_folder, parse_options
from quant.deploy.onnx_backend import open_exported
from quant.loading import load_full_precision
from trainer import Trainer, build_optimizer, build_scheduler
from utility import run_main


def main(argv=None):
    """Run the command line `argv` (default: sys.argv). Returns the exit code; a user's mistake raises UserError."""
    return run(parse_options(argv, quantized=False))


def run(options):
    """Train and test a full-precision network by parsed options."""
    path = experiment_folder(options.load or options.save)
    with joined(options) as ranks, open_run(options, path, config_text(options), ranks) as (folder, device):
        network = channels_last(model.build(options).to(device))
        evaluator = Evaluator(data.build_test_sets(options), run=folder, device=device, k_bits=32, options=options)
        if options.backend != "torch":
            evaluator(open_exported(options), 0)
            return 0
        if options.test_only:
            load_full_precision(network, *weights_to_test(options, folder, or_pre_train=True))
            evaluator(network, 0)
            return 0
        for flag in ("pre_train", "refine"):
            if getattr(options, flag):
                load_full_precision(network, getattr(options, flag), f"--{flag}")
        patch_size = options.patch_size // options.scale * options.scale
        objective = Supervised(loss.build(options.loss, rgb_range=options.rgb_range, patch_size=patch_size,
                                          gan_k=options.gan_k, vgg_weights=options.vgg_weights, device=device),
                               compiler=options.compiler)
        optimizer = build_optimizer([p for p in network.parameters() if p.requires_grad], options)
        loader = data.build_train_loader(options, rank=ranks.rank, world_size=ranks.world_size)
        trainer = Trainer(network, objective, loader=loader, optimizer=optimizer,
                          scheduler=build_scheduler(optimizer, options), evaluator=evaluator,
                          recorder=Recorder(folder), run=folder, device=device, options=options)
        if continued := checkpoint_to_continue(options, folder):
            trainer.resume(continued)
        trainer.fit()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
