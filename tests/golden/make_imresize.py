"""Writes imresize.json: results of `data.imresize` at a revision that equals MATLAB on all 38 reference images.

python tests/golden/make_imresize.py
"""

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CASES = [
    {"scale": 0.25},
    {"scale": 0.25, "border": "replicate"},
    {"scale": 1 / 3},
    {"scale": 0.5, "antialias": False},
    {"scale": [0.4, 0.7]},
    {"scale": 1.5},
    {"output_shape": [7, 21]},
    {"output_shape": [5, None]},
]


def picture(height=13, width=11):
    """A small image with flat parts, edges and texture, uint8 [height, width]."""
    rows, columns = np.mgrid[:height, :width]
    return (rows * rows * 31 + columns * 57 + 200 * (columns > 6)).astype(np.uint8)


def main():
    sys.path.insert(0, str(ROOT))
    from data.imresize import imresize

    results = [{"arguments": case, "pixels": imresize(picture(), **case).tolist()} for case in CASES]
    lines = ",\n".join(json.dumps(result) for result in results)
    Path(__file__).with_name("imresize.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
