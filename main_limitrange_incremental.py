"""Quantize networks with DDTB, and test quantized ones; `--help` lists the flags."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until run_main answers it: imports take seconds, some lose a Ctrl-C

import copy
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import main_ori
import model
from data.build import build_test_sets
from model import registry
from model.common import SuperResolver
from model.saved import file_at
from model.weights import load_strictly
from option import LIGHTER, NO_BEST, parse_options, variant_of
from quant import Phase, QuantConfig, Schedule, quantize
from quant.activation import quantizers
from quant.distill import Distillation, parameter_groups
from quant.open import load_weights
from quant.phase import phase_of
from utility import FULL_PRECISION, UserError, run_main

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv). Returns the exit code; a user's mistake raises UserError."""
    options = parse_options(argv, quantized=True)
    return main_ori.run(options) if options.k_bits == FULL_PRECISION or options.test_only else run(options)


def run(options: Namespace) -> int:
    """Quantize a network and train it by parsed options."""
    with main_ori.run_context(options) as (folder, device):
        teacher = model.build(options)
        student = quantize(copy.deepcopy(teacher), QuantConfig.of(options)).to(device)
        evaluator = main_ori.build_evaluator(options, build_test_sets(options), folder, device)
        continued_from = options.resume or options.load and folder.to_continue()
        # a checkpoint brings its phase, weights and teacher when training resumes
        phase = Phase.CALIBRATE if continued_from else load_start_weights(teacher, student, options)
        schedule = Schedule(student, dynamic_ratio=options.dynamic_ratio, dynamic_choice=options.dynamic_choice,
                            first_stage_epoch=options.first_stage_epoch, seed=options.seed, first_phase=phase)
        objective = Distillation(teacher.to(device), schedule, w_l1=options.w_l1, w_at=options.w_at,
                                 compiler="inductor" if options.compile else None)
        main_ori.train(student, objective, parameter_groups(student, bound_lr=options.bound_lr), evaluator, options,
                       continued_from=continued_from, folder=folder, device=device)
    return 0


def load_start_weights(teacher: SuperResolver, student: SuperResolver, options: Namespace) -> Phase:
    """Give teacher and student the weights of --pre_train; the student those of --refine, where given.

    Returns the Phase that training begins in: with --refine the network keeps its own, with its bounds and gates.
    """
    if options.refine:
        checkpoint = load_weights(student, options.refine, "--refine")
    if path := options.pre_train:
        try:
            file_at(path, "--pre_train")
        except UserError as error:
            raise UserError(f"{error}; {how_to_get_it(options)}") from error
        load_weights(teacher, path, "--pre_train", any_scale=True)  # the losses look at its body feature alone
    elif options.refine:
        load_strictly(teacher, teacher_in(checkpoint, options.refine), options.refine)
        log.info("--refine %s: its teacher is this run's too", options.refine)
    else:
        log.warning("warning: no --pre_train: teacher and student start from random weights; give a trained network")
    if not options.refine:
        student.load_state_dict(teacher.state_dict(), strict=False)
        return Phase.CALIBRATE
    phase, gates = phase_of(student), sum(quantizer.dynamic for quantizer in quantizers(student).values())
    log.info("--refine %s: its bounds, its %d gates and its phase (%s) are kept; nothing is calibrated, so that "
             "--dynamic_ratio and --init_bounds have no effect", options.refine, gates, phase.value)
    if phase is not Phase.DYNAMIC and options.epochs < options.first_stage_epoch:
        log.warning(NO_BEST, options.first_stage_epoch, options.epochs)
    return phase


def how_to_get_it(options: Namespace) -> str:
    """In words, where the full-precision network that options ask for comes from."""
    name = f"{options.model}_baseline_x{options.scale}"
    usual = not variant_of(options).keys() & set(registry.settings_of(options.model))
    if usual and (file := Path(__file__).parent / "pretrained" / f"{name}.pt").is_file():
        return f"{os.path.relpath(file)} comes with the code"
    how = f"python main_ori.py --model {options.model} --scale 3 --save {name}" if options.scale == 3 else \
        f"bash baseline.sh {options.model}_x{options.scale}"  # which has the paper's scales
    return f"`{how}` trains it, then give --pre_train ../experiment/{name}"


def teacher_in(checkpoint: dict[str, Any], path: str) -> dict[str, Tensor]:
    """The teacher's state dict in a run's checkpoint, read from `path`. Raises UserError where it has none."""
    objective = checkpoint.get("objective")
    if not isinstance(objective, dict) or "teacher" not in objective:
        raise UserError(f"--refine {path}: has no teacher in it, as a run's checkpoint has; give the full-precision "
                        "network, too, by --pre_train")
    return objective["teacher"]


if __name__ == "__main__":
    sys.exit(run_main(main, lighter=LIGHTER))
