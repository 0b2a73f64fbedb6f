"""The demo, the table of results and the figures, made by the project's own programs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command_line(step):
    """A program of ours, as main_ori.py, or a module, as data.prepare, and its flags, with all that runs it."""
    program, *flags = map(str, step)
    start = [str(ROOT / program)] if program.endswith(".py") else ["-m", program]
    return [sys.executable, *start, *flags]


def environment():
    """The variables that our programs are run with, wherever they are called."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def run(step):
    """Run one of our programs, told first. Returns the exit code."""
    program, *flags = map(str, step)
    print(f"\n$ python {'' if program.endswith('.py') else '-m '}{' '.join((program, *flags))}", flush=True)
    return subprocess.run(command_line(step), env=environment()).returncode
