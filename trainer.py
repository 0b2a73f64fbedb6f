"""The one training loop, for full-precision and for quantized networks.

The objective says what a batch costs, and in `phase` what the epoch does: a quant.Phase, None in full precision.
"""

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import model
from data.loader import TrainLoader
from engine import checkpoint
from engine.evaluator import Evaluator
from engine.optimizer import step_scheduler
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from loss.supervised import Supervised
from model import parallel
from model.common import SuperResolver
from model.optimizer_state import load_optimizer
from model.saved import same_place
from model.torch_file import save_torch_file
from model.weights import FORMAT, load_strictly
from quant.activation import collapsed
from quant.distill import Distillation, bounds_by_name
from quant.phase import Phase
from utility import Stopped, UserError, holding_signals

log = logging.getLogger(__name__)

# Convolutions run in 16 bit, and features stay so until quantizers, ImageConv and losses make them float32: 16 bit
# leave round(s*x - z) no fraction to round by, can't resolve a bound's step, and in losses overflow or round away.
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NONE_YET = {"psnr": -math.inf, "epoch": 0}  # before a network counts as the best


class Trainer:
    """Trains `network` by `objective` and keeps everything in `run`, a RunFolder.

    `position` is (epoch, batches of it that are done); epochs count from 1. Of several processes (model.parallel) each
    trains on its slices of the batches; the first one alone tests, logs and writes.

    epochs: the last one. print_every: batches. checkpoint_every: batches; 0: at epochs' ends. save_models: keep every
    epoch's network. gclip: largest absolute gradient, 0: no limit. amp: 'off', 'bf16' or 'fp16', whose loss is scaled
    and whose overflowing steps are left out. run_options: what checkpoints say of the options, by name.
    """

    def __init__(self, network: SuperResolver, objective: Supervised | Distillation, *, loader: TrainLoader,
                 optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler,
                 evaluator: Evaluator, recorder: Recorder, run: RunFolder, device: torch.device, epochs: int,
                 print_every: int = 100, checkpoint_every: int = 0, save_models: bool = False, gclip: float = 0.0,
                 amp: str = "off", run_options: dict[str, Any] | None = None) -> None:
        self.network, self.objective = network, objective
        self.loader, self.optimizer, self.scheduler = loader, optimizer, scheduler
        self.evaluator, self.recorder, self.run = evaluator, recorder, run
        self.device, self.epochs, self.gclip = device, epochs, gclip
        self.print_every, self.checkpoint_every, self.save_models = print_every, checkpoint_every, save_models
        self.run_options = run_options or {}
        self.autocast = torch.autocast(device.type, dtype=None if amp == "off" else DTYPES[amp], enabled=amp != "off")
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self.position, self.best, self.sums, self.counts, self.has_checkpoint = (1, 0), NONE_YET, {}, {}, False

    def fit(self) -> None:
        """Train from `position` to the last epoch; save after every epoch, and as often within as asked.

        SIGTERM and the like end it after the step, with everything saved: raises Stopped.
        """
        state = [part.state_dict() for part in (self.network, self.objective, self.optimizer)]
        checkpoint.begin_alike([*state, self.position, self.loader.images_hash], self.run_options, self.run.path)
        if parallel.is_first():
            self.run.begin()
            if not self.run.adopt(epoch=self.position[0] - 1, best=self.best):
                log.info("the best network so far (%s) is in no file here; the best is counted anew", self._best_text())
                self.best = NONE_YET
        if self.position == (1, 0) or not self.has_checkpoint:  # from here on it can be continued with its options
            self.save()
        while self.position[0] <= self.epochs:
            with holding_signals() as held:
                self._train_epoch(held)
                self.save()
            self._finish_epoch()
        log.info("finished: %d epochs, best %s", self.position[0] - 1, self._best_text())

    def _train_epoch(self, held):
        epoch, done = self.position
        self.objective.start_epoch(self.network, epoch)
        log.info("[Epoch %d]\tLearning rate: %.2e", epoch, self.optimizer.param_groups[0]["lr"])
        self.loader.sampler.set_position(epoch, done)
        bar = tqdm(self.loader, initial=done, total=len(self.loader), desc=f"epoch {epoch}", leave=False,
                   disable=None if parallel.is_first() else True)
        waited, printed = 0.0, time.perf_counter()
        idle = printed
        for lr, hr, _ in bar:
            waited += time.perf_counter() - idle
            self.step(lr.to(self.device, non_blocking=True), hr.to(self.device, non_blocking=True))
            done += 1
            self.position = (epoch, done)
            if done % self.print_every == 0:
                text = self._check_finite()
                now, size = time.perf_counter(), self.loader.sampler.batch_size
                log.info("[%d/%d]\t%s\t%.1f+%.1fs", done * size, len(self.loader) * size, text,
                         now - printed - waited, waited)
                waited, printed = 0.0, now
            if self.checkpoint_every and done % self.checkpoint_every == 0:
                self.save()
            self._stop_if_asked(held.number)
            idle = time.perf_counter()

    def step(self, lr: torch.Tensor, hr: torch.Tensor) -> None:
        """Train on a batch, in calibration only look at it: lr [N, n_colors, p, p], hr [N, n_colors, s*p, s*p]."""
        with self.autocast:
            total, parts = self.objective.losses(self.network, lr, hr)
        if total is not None:
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(total).backward()
            parallel.average_gradients(self.network.parameters())
            self.scaler.unscale_(self.optimizer)
            if self.gclip > 0:
                torch.nn.utils.clip_grad_value_(self.network.parameters(), self.gclip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        for name, part in parts.items():
            self.sums[name], self.counts[name] = self.sums.get(name, 0) + part, self.counts.get(name, 0) + 1

    def _stop_if_asked(self, number):
        """Save and end when any process got a signal: all of them stop after the same step."""
        number = int(parallel.all_reduce_max(torch.tensor(number or 0)))
        if number:
            self.save()
            epoch, batch = self.position
            raise Stopped(number, f"saved after batch {batch} of epoch {epoch}; go on with --load {self.run.path}")

    def _reduced_losses(self):
        """{name of a loss: its mean over the epoch's batches and all processes}; they all have the same sums then."""
        if self.sums:
            together = parallel.all_reduce_mean(torch.stack([torch.as_tensor(value) for value in self.sums.values()]))
            self.sums = dict(zip(self.sums, together.unbind(), strict=True))
        return {name: float(value) / self.counts[name] for name, value in self.sums.items()}

    def _check_finite(self):
        """The epoch's mean losses so far as text; stops the run where one is not finite. Waits for the device."""
        self._demand_finite("loss", means := self._reduced_losses())
        return "".join(f"[{name}: {value:.4f}]" for name, value in means.items())

    def _demand_finite(self, what, values):
        if broken := ", ".join(name for name, value in values.items() if not checkpoint.all_finite(value)):
            epoch, batch = self.position
            raise UserError(f"{what} {broken} is not finite in epoch {epoch}, by batch {batch}; lower --lr or set "
                            f"--gclip. The last good checkpoint is kept: {self.run.checkpoint}")

    def _finish_epoch(self):
        """Test, count the best, step the scheduler, save: killed anywhere, the epoch is finished again from its end."""
        epoch = self.position[0]
        means = self._reduced_losses()
        is_best = parallel.is_first() and self._test_and_record(epoch, means)
        parallel.wait_for_all()
        step_scheduler(self.scheduler)
        self.position, self.sums, self.counts = (epoch + 1, 0), {}, {}
        self.save(best=is_best, keep=self.save_models and self.objective.phase is not Phase.CALIBRATE)

    def _test_and_record(self, epoch, means):
        """Test, record the epoch's curves; returns whether its network is the best so far."""
        phase = self.objective.phase
        results = {} if phase is Phase.CALIBRATE else self.evaluator(self.network, epoch)
        if names := collapsed(self.network):
            log.warning("warning: bounds of %s have met; a minimal width is kept between them", ", ".join(names))
        self.recorder.add_epoch(epoch, losses=means, results=results, rate=self.optimizer.param_groups[0]["lr"],
                                scalars=bounds_by_name(self.network))
        judged = [row["psnr"] for row in results.values() if row.get("psnr") is not None]
        if not judged or phase not in (None, Phase.DYNAMIC) or not judged[0] > self.best["psnr"]:
            return False
        self.best = {"psnr": judged[0], "epoch": epoch}
        log.info("best so far: %s", self._best_text())
        return True

    def _best_text(self):
        return f"PSNR {self.best['psnr']:.3f} @epoch {self.best['epoch']}" if self.best["epoch"] else "none counted"

    def save(self, *, best: bool = False, keep: bool = False) -> None:
        """Write the checkpoint; best: as model_best too; keep: under the name of the epoch that it ends too.

        The checkpoint comes last: until it is there, a resumed run makes the others again. Raises UserError, and writes
        nothing, where something is not finite.
        """
        self._check_finite()
        state = self.state_dict()
        # what the last step made of these is in no loss yet; all processes have the same
        self._demand_finite("state of the", {"network": state["state_dict"], "optimizer": state["optimizer"],
                                             "objective": state["objective"]})
        if not parallel.is_first():
            return
        if keep:
            save_torch_file(state, self.run.checkpoint.with_name(f"model_{state['epoch']}.pth.tar"))
        if best:
            save_torch_file(state, self.run.best)
        save_torch_file(state, self.run.checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run which goes on needs, as tensors and plain values."""
        (epoch, batch), phase = self.position, self.objective.phase
        return {
            "format": FORMAT, "options": self.run_options, "epoch": epoch - 1, "batch": batch,
            "network": {"name": model.name_of(self.network), **self.network.settings},
            "quant": None if phase is None else self.network.quant_config.to_dict(),
            "phase": None if phase is None else phase.value, "state_dict": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict(),
            "precision": self.scaler.state_dict(), "objective": self.objective.state_dict(),
            "best": self.best, "judged_by": self.evaluator.judged_by, "history": self.recorder.history,
            "trained_on": self.loader.images_hash,
            "sums": {name: torch.as_tensor(value) for name, value in self.sums.items()}, "counts": self.counts,
            "random": checkpoint.random_state(),
        }

    def resume(self, path: str | Path) -> None:
        """Continue from one of our checkpoints, with the rates that this run's options give to its epoch.

        Everything is checked before training. Raises UserError for any other file, or one of another network.
        """
        state = checkpoint.read_training(path, self.state_dict())
        with checkpoint.reading_parts(path):
            checkpoint.check_training_state(state, path, batches=len(self.loader))
            load_strictly(self.network, state["state_dict"], path)
            self._restore(state)
        self.has_checkpoint = same_place(path, self.run.checkpoint)
        log.info("continuing %s: epoch %d, batch %d", path, *self.position)
        if state.get("trained_on", self.loader.images_hash) != self.loader.images_hash:
            log.warning("warning: the training images are others than those that it was trained on")

    def _restore(self, state):
        self.objective.load_state_dict(state["objective"])
        load_optimizer(self.optimizer, state["optimizer"])
        for _ in range(state["epoch"]):
            step_scheduler(self.scheduler)
        if state["precision"] and self.scaler.is_enabled():  # else one begun in another precision: torch's own scale
            self.scaler.load_state_dict(state["precision"])
        self.best = state["best"]
        if state.get("judged_by") != self.evaluator.judged_by and state["epoch"] < self.epochs and self.best["epoch"]:
            log.info("the best network so far (%s) was found by another test; the best is counted anew",
                     self._best_text())
            self.best = NONE_YET
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.counts = checkpoint.loss_counts(state)
        self.position = (state["epoch"] + 1, state["batch"])
        self.recorder.history = state["history"]
        checkpoint.restore_random_state(state["random"])
