"""The former name of `examples.results`: `python -m benchmarks.results` still runs it."""

import sys

from examples.results import main
from utility import run_main

if __name__ == "__main__":
    sys.exit(run_main(main))
