"""The test pass: a network over test sets, PSNR and SSIM for each, images saved where asked."""

import functools
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from data.datasets import EvalSet
from data.pictures import picture_of
from engine.device import wait_for
from engine.images_done import ImagesDone
from engine.run_folder import RunFolder
from metrics.functional import psnr, ssim
from model.common import constant_weights
from model.inference import super_resolve
from utility import UNFINISHED_TEST, UserError, atomic_path

log = logging.getLogger(__name__)


class Evaluator:
    """Call it with a network and an epoch; it returns and writes the results of every test set.

    run: a RunFolder that has begun; eval.txt gets a line of JSON a set, results-<set>/ the images.
    model, scale, k_bits, rgb_range: of the network. chop_size, self_ensemble: as in `super_resolve`. half: in 16 bits.
    For eval.txt, variant: {flag: value} of what makes it another network than the published ones; backend: what runs
    it; file: what it was opened from, "" for one that trains.
    save_results: keep the SR images, with save_gt the LR and HR ones too.
    tested: what the network is, as plain values; given, images that the same test has done before it was stopped count.
    """

    def __init__(self, test_sets: Sequence[EvalSet], *, run: RunFolder, device: torch.device, model: str, scale: int,
                 k_bits: int, rgb_range: float, variant: Mapping[str, Any] | None = None,
                 chop_size: int | None = None, self_ensemble: bool = False, half: bool = False, backend: str = "torch",
                 file: str = "", save_results: bool = False, save_gt: bool = False,
                 tested: Mapping[str, Any] | None = None) -> None:
        self.test_sets = test_sets
        self.run = run
        self.device = device
        self.model, self.scale, self.k_bits, self.rgb_range = model, scale, k_bits, rgb_range
        self.chop_size, self.self_ensemble, self.half = chop_size, self_ensemble, half
        self.variant, self.backend, self.file, self.tested = dict(variant or {}), backend, file, tested
        self.saved = ("SR", "LR", "HR") if save_results and save_gt else ("SR",) if save_results else ()

    def __call__(self, network: nn.Module, epoch: int) -> dict[str, dict[str, Any]]:
        """Returns {set name: {"psnr", "ssim" (None without HR), "images", "seconds", ...}}.

        In a set without HR (a user's folder) pictures that can't be read are reported, and left out of "images".
        Raises UserError for a network whose values are not finite.
        """
        network.eval()
        done = {each.name: ImagesDone(self.run, each.name, self._conditions(each)) for each in self.test_sets
                if self.tested}
        results = {each.name: self._test(network, each, epoch, done.get(each.name)) for each in self.test_sets}
        for images in done.values():
            images.forget()
        return results

    @functools.cached_property
    def judged_by(self) -> list[Any]:
        """What the PSNR depends on by which the best network is chosen, as plain values: two tests may not compare."""
        images = next((each.files() for each in self.test_sets if each.has_hr), [])
        return [images, self.self_ensemble, self.half]

    def _test(self, network, test_set, epoch, done):
        rows, left_out = [], 0
        mark = self._results(test_set) / UNFINISHED_TEST if self.saved else None
        if mark:  # until all are there, a former network's pictures are among them
            with atomic_path(mark):
                pass
        half = torch.autocast(self.device.type, dtype=torch.float16, enabled=self.half)
        with ThreadPoolExecutor(max_workers=2) as writer, torch.inference_mode(), half, constant_weights():
            saved = []
            for index in tqdm(range(len(test_set)), desc=test_set.name, disable=None, leave=False):
                saved = [image for image in saved if not image.done() or image.result()]  # raises what failed
                try:
                    lr, hr, name = test_set[index]
                except UserError as error:
                    if test_set.has_hr:
                        raise
                    left_out += 1  # a user's picture: the others are done
                    tqdm.write(f"error: {error}", file=sys.stderr)
                    continue
                pictures = self._pictures(test_set, index, lr, hr, name)
                key = done.key(lr, hr) if done else ""
                row = done.find(key, pictures) if done else None
                if not row:
                    row, sr = self._image(network, test_set, lr, hr, name)
                    writing = {path: writer.submit(make(sr).write, path) for path, make in pictures.items()}
                    saved += writing.values()
                    if done:
                        done.add(key, row, writing=writing)
                rows.append(row)
        result = self._report(test_set, epoch, rows, left_out)
        for image in saved:
            image.result()
        if mark:
            mark.unlink(missing_ok=True)
        self.run.append("eval.txt", json.dumps(result) + "\n")
        return result

    def _image(self, network, test_set, lr, hr, name):
        """((PSNR and SSIM, None without HR; seconds), SR [n_colors, h, w] in 0..255) of one image."""
        wait_for(self.device)
        start = time.perf_counter()
        sr = super_resolve(network, lr[None].to(self.device), scale=self.scale, chop_size=self.chop_size,
                           self_ensemble=self.self_ensemble)
        sr = self._to_255(sr[0].float())
        wait_for(self.device)
        seconds = time.perf_counter() - start
        if not torch.isfinite(sr).all():
            raise UserError(f"{test_set.name}, {name}: the network makes values that are not finite; test with "
                            "--precision single, or give another network")
        if hr is None:
            return (None, seconds), sr
        pair = [image.round().clamp(0, 255) for image in (sr, self._to_255(hr.to(self.device)))]
        how = {"border": test_set.border, "luma": test_set.luma}
        return ([psnr(*pair, **how), ssim(*pair, **how)], seconds), sr

    def _conditions(self, test_set):
        """What the figures of an image depend on besides the image."""
        return {**self.tested, "chop_size": self.chop_size, "self_ensemble": self.self_ensemble, "half": self.half,
                "backend": self.backend, "device": self.device.type, "border": test_set.border, "luma": test_set.luma}

    def _to_255(self, image):
        """From 0..rgb_range to 0..255, not rounded."""
        return image * (255 / self.rgb_range)

    def _pictures(self, test_set, index, lr, hr, name):
        """{path: function that makes its Picture of SR} for the images that are kept."""
        makers = {"SR": lambda sr: test_set.picture(index, sr), "LR": lambda _: picture_of(self._to_255(lr)),
                  "HR": lambda _: picture_of(self._to_255(hr))}
        folder = self._results(test_set)
        return {folder / f"{self.k_bits}bit_{name}_x{self.scale}_{kind}.png": makers[kind] for kind in self.saved
                if kind != "HR" or hr is not None}

    def _results(self, test_set):
        return self.run.path / f"results-{test_set.name}"

    def _report(self, test_set, epoch, rows, left_out):
        judged = [figures for figures, _ in rows if figures]
        seconds = sum(seconds for _, seconds in rows)
        means = [sum(values) / len(judged) for values in zip(*judged, strict=True)] if judged else [None, None]
        result = {"epoch": epoch, "set": test_set.name, "model": self.model, "scale": self.scale,
                  "k_bits": self.k_bits, "psnr": means[0], "ssim": means[1], "images": len(test_set) - left_out,
                  "seconds": round(seconds, 3), **({"self_ensemble": True} if self.self_ensemble else {}),
                  **({"precision": "half"} if self.half else {}),
                  **({"variant": self.variant} if self.variant else {}),
                  **({} if test_set.luma else {"range": [test_set.pairs[0].name, test_set.pairs[-1].name]}),
                  **({"backend": self.backend} if self.backend != "torch" else {}),
                  **({"file": self.file} if self.file else {})}
        scores = f"PSNR: {means[0]:.3f}\tSSIM: {means[1]:.4f}" if judged else "no HR to compare with"
        scores += f"\t{result['images']} images in {seconds:.1f}s" + (f", {left_out} left out" if left_out else "")
        log.info("[%s x%d]\t%s", test_set.name, self.scale, scores)
        return result
