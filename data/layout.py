"""Where the images of a data set lie: one HR folder, and one LR folder per scale."""

import os
from dataclasses import dataclass
from pathlib import Path

from data.images import image_files
from utility import UserError, whole_number


@dataclass(frozen=True)
class Layout:
    """Folder names below the data set's root; LR images lie in X2, X3, X4 ... and end in x2, x3, x4 ..."""

    name: str
    hr: str
    lr: str

    def hr_folder(self, root: str | Path) -> Path:
        return Path(root) / self.hr

    def lr_folder(self, root: str | Path, scale: int) -> Path:
        return Path(root) / self.lr / f"X{scale}"

    def path(self, root: str | Path, name: str, scale: int) -> Path:
        """The file of image `name` at `scale`; scale 1 is the HR image."""
        if scale == 1:
            return self.hr_folder(root) / f"{name}.png"
        return self.lr_folder(root, scale) / f"{name}x{scale}.png"

    def scales(self, root: str | Path) -> list[int]:
        """The scales of which `root` has LR images, sorted."""
        return list(scale_folders(Path(root) / self.lr))


LAYOUTS = {
    "div2k": Layout("div2k", hr="DIV2K_train_HR", lr="DIV2K_train_LR_bicubic"),  # 0001, 0002 ..., by --data_range
    "benchmark": Layout("benchmark", hr="HR", lr="LR_bicubic"),
}
BENCHMARKS = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100}  # images of each


def images_in(folder: str | Path) -> list[Path]:
    """The image files of a folder, sorted; none where there is no such folder."""
    return image_files(folder) if os.path.isdir(folder) else []


def scale_folders(folder: str | Path) -> dict[int, Path]:
    """dict scale -> path of the folders X2, X3, X4 ... in `folder` that hold images, by rising scale."""
    folders = {number: path for path in folders_in(folder) if path.name.startswith("X")
               and (number := whole_number(path.name[1:]))}
    return {scale: folders[scale] for scale in sorted(folders) if images_in(folders[scale])}


def folders_in(folder: Path | str) -> list[Path]:
    """The folders in a folder, sorted; none where there is no such folder. Raises UserError when it can't be read."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if os.path.isdir(entry))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
