"""Quantize networks with DDTB, and test quantized ones; `--help` lists the flags."""

import copy
import logging
import sys

import data
import main_ori
import model
from engine.evaluator import Evaluator
from engine.recorder import Recorder
from engine.run_folder import open_run
from model.parallel import joined
from model.weights import checkpoint_to_continue, weights_to_test
from option import config_text, experiment_folder, parse_options
from quant import QuantConfig, Schedule, quantize
from quant.deploy.onnx_backend import open_exported
from quant.deploy.packed import is_packed
from quant.distill import Distillation, parameter_groups
from quant.loading import load_full_precision, load_quantized
from trainer import Trainer, build_optimizer, build_scheduler
from utility import UserError, run_main

log = logging.getLogger(__name__)


def main(argv=None):
    """Run the command line `argv` (default: sys.argv). Returns the exit code; a user's mistake raises UserError."""
    options = parse_options(argv, quantized=True)
    return main_ori.run(options) if options.k_bits == 32 else run(options)


def run(options):
    """Quantize a network and train it, or test a quantized one, by parsed options."""
    path = experiment_folder(options.load or options.save)
    with joined(options) as ranks, open_run(options, path, config_text(options), ranks) as (folder, device):
        teacher = model.build(options)
        student = quantize(copy.deepcopy(teacher), QuantConfig.of(options)).to(device)
        evaluator = Evaluator(data.build_test_sets(options), run=folder, device=device, k_bits=options.k_bits,
                              options=options)
        if options.backend != "torch":
            evaluator(open_exported(options), 0)
            return 0
        if options.test_only:
            load_quantized(student, *weights_to_test(options, folder))
            evaluator(student, 0)
            return 0
        continued = checkpoint_to_continue(options, folder)
        if not continued:
            start_weights(teacher, student, options)
        schedule = Schedule(student, dynamic_ratio=options.dynamic_ratio, dynamic_choice=options.dynamic_choice,
                            first_stage_epoch=options.first_stage_epoch, seed=options.seed)
        objective = Distillation(teacher.to(device), schedule, w_l1=options.w_l1, w_at=options.w_at,
                                 compiler=options.compiler)
        optimizer = build_optimizer(parameter_groups(student, bound_lr=options.bound_lr), options)
        loader = data.build_train_loader(options, rank=ranks.rank, world_size=ranks.world_size)
        trainer = Trainer(student, objective, loader=loader, optimizer=optimizer,
                          scheduler=build_scheduler(optimizer, options), evaluator=evaluator,
                          recorder=Recorder(folder), run=folder, device=device, options=options)
        if continued:
            trainer.resume(continued)
        trainer.fit()
    return 0


def start_weights(teacher, student, options):
    """Give teacher and student the weights of --pre_train; the student those of --refine, where given."""
    if options.pre_train:
        load_full_precision(teacher, options.pre_train, "--pre_train")
    else:
        log.warning("warning: no --pre_train: teacher and student start from random weights; give a trained network")
    student.load_state_dict(teacher.state_dict(), strict=False)
    if is_packed(options.refine):
        raise UserError(f"--refine {options.refine}: a packed file can be tested, not trained; give its checkpoint")
    if options.refine:
        load_quantized(student, options.refine, "--refine")


if __name__ == "__main__":
    sys.exit(run_main(main))
