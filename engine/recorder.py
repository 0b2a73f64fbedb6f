"""The curves of a training run: TensorBoard scalars, and PNG pictures of loss and PSNR in the run's folder."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from engine.run_folder import RunFolder
from utility import atomic_path

log = logging.getLogger(__name__)


class Recorder:
    """Keeps one row an epoch in `history`: {"epoch", "rate", "losses": {name: mean}, "psnr": {set: dB}}.

    run: a RunFolder; TensorBoard's files go to <run>/run, pictures to <run>/loss_<name>.png, psnr_<set>.png.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.history = []
        self._board = None

    def restore(self, history: Iterable[dict[str, Any]]) -> None:
        """Continue from a checkpoint's history."""
        self.history = list(history)

    def add_epoch(self, epoch: int, *, losses: Mapping[str, float], results: Mapping[str, dict[str, Any]], rate: float,
                  scalars: Mapping[str, float]) -> None:
        """Write an epoch's mean losses, its test results, learning rate and other scalars by name."""
        psnr = {name: row["psnr"] for name, row in results.items() if row["psnr"] is not None}
        self.history.append({"epoch": epoch, "rate": rate, "losses": losses, "psnr": psnr})
        groups = {"loss": losses, "psnr": psnr, "ssim": {name: row["ssim"] for name, row in results.items()}}
        board = self._open_board()
        board.add_scalar("rate", rate, epoch)
        for group, values in groups.items():
            for name, value in values.items():
                if value is not None:
                    board.add_scalar(f"{group}/{name}", value, epoch)
        for name, value in scalars.items():
            board.add_scalar(name, value, epoch)
        board.flush()
        self._draw("losses", "loss", "loss")
        self._draw("psnr", "psnr", "PSNR (dB)")

    def _open_board(self):
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it
            except ImportError:
                log.warning("no curves for TensorBoard: it is not installed (pip install tensorboard)")
                self._board = _NoBoard()
            else:
                self._board = SummaryWriter(self.run.path / "run", purge_step=self.history[-1]["epoch"])
        return self._board

    def _draw(self, group, prefix, label):
        for name in dict.fromkeys(name for row in self.history for name in row[group]):
            points = [(row["epoch"], row[group][name]) for row in self.history if name in row[group]]
            _draw_curve(self.run.path / f"{prefix}_{name}.png", points, f"{label} {name}")


class _NoBoard:
    """Stands where TensorBoard is not installed."""

    def add_scalar(self, *_: Any) -> None:
        pass

    def flush(self) -> None:
        pass


def _draw_curve(path, points, label):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="epoch", ylabel=label)
    axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
