"""Writes networks.json: small networks at a revision that gives all numbers of shared/reference.

python tests/golden/make_networks.py
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main():
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
    from small_networks import CASES, measured

    lines = [f'"{name}": {{\n' + ",\n".join(f'"{what}": {json.dumps(numbers)}' for what, numbers in
                                             measured(name).items()) + "\n}" for name in CASES]
    Path(__file__).with_name("networks.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
