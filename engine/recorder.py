"""The curves of a training run: TensorBoard scalars, and PNG pictures of loss and PSNR in the run's folder."""

import functools
import logging
from collections.abc import Mapping
from typing import Any

from engine.run_folder import RunFolder
from utility import MAKER, atomic_path, first_line

log = logging.getLogger(__name__)


class Recorder:
    """Keeps a row for each epoch in `history`: {"epoch", "rate", "losses": {name: mean}, "psnr": {set: dB}}.

    run: a RunFolder; TensorBoard's files go to <run>/run, pictures to <run>/loss_<name>.png, psnr_<set>.png.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.history: list[dict[str, Any]] = []

    def add_epoch(self, epoch: int, *, losses: Mapping[str, float], results: Mapping[str, dict[str, Any]], rate: float,
                  scalars: Mapping[str, float]) -> None:
        """Write an epoch's mean losses, its test results, learning rate and other scalars by name."""
        psnr = {name: row["psnr"] for name, row in results.items() if row["psnr"] is not None}
        self.history.append({"epoch": epoch, "rate": rate, "losses": losses, "psnr": psnr})
        groups = {"loss": losses, "psnr": psnr, "ssim": {name: row["ssim"] for name, row in results.items()}}
        by_tag = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        self._add_scalars(epoch, {"rate": rate, **by_tag, **scalars})
        self._draw("losses", "loss", "loss")
        self._draw("psnr", "psnr", "PSNR (dB)")

    def _add_scalars(self, epoch, values):
        """What fails in TensorBoard, or in what it imports, ends its curves, not the training."""
        try:
            if board := self._board:
                for tag, value in values.items():
                    if value is not None:
                        board.add_scalar(tag, value, epoch)
                board.flush()
        except Exception as error:
            self._board = None
            log.warning("no more curves for TensorBoard: %.200s", first_line(repr(error)))

    @functools.cached_property
    def _board(self):
        """TensorBoard's writer, None where it is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it
        except ImportError:
            log.warning("no curves for TensorBoard: it is not installed (pip install tensorboard)")
            return None
        return SummaryWriter(self.run.path / "run", purge_step=self.history[-1]["epoch"])

    def _draw(self, group, prefix, label):
        from matplotlib.figure import Figure

        for name in dict.fromkeys(name for row in self.history for name in row[group]):
            points = [(row["epoch"], row[group][name]) for row in self.history if name in row[group]]
            figure = Figure(figsize=(6, 4))
            axes = figure.add_subplot(xlabel="epoch")
            axes.set_ylabel(f"{label} {name}", parse_math=False)  # whatever a set is called
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            figure.tight_layout()
            with atomic_path(self.run.path / f"{prefix}_{name}.png") as temporary:
                figure.savefig(temporary, dpi=120, metadata={"Software": MAKER})
