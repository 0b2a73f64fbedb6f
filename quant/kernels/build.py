"""Compile a C++ file with the machine's compiler at first use, and load it with ctypes."""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from utility import atomic_path

COMPILERS = ("c++", "g++", "clang++")
# no contraction: results have to be those of PyTorch's separate operations; the last two let rounding be vectorised
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
# tried in turn: compilers differ in what they know
EXTRA_FLAGS = (("-march=native", "-fopenmp"), ("-fopenmp",), ())
TIMEOUT_SECONDS = 120


class BuildError(Exception):
    """Why there is no library, in one line."""


def load(source):
    """The compiled `source` as a ctypes.CDLL, and the seconds spent compiling: 0 when it was in the cache.

    The cache is __pycache__ beside the source; a file's name there tells source, flags, processor and torch apart, and
    it appears whole, so that processes may start together. Where nothing can be written a temporary folder serves.
    CXX names another compiler. Raises BuildError where there is no compiler or it fails.
    """
    start = time.perf_counter()
    name = f"{source.stem}-{_key(source)}.so"
    cached = source.parent / "__pycache__" / name
    with contextlib.suppress(OSError):
        if cached.is_file():
            return ctypes.CDLL(str(cached)), 0.0
    try:
        with atomic_path(cached) as path:
            _compile(source, path)
        library = ctypes.CDLL(str(cached))
    except OSError:
        library = _load_once(source, name)
    return library, time.perf_counter() - start


def _load_once(source, name):
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            _compile(source, path)
            return ctypes.CDLL(str(path))  # stays mapped when the file is gone
    except OSError as error:
        raise BuildError(f"the compiled kernels cannot be loaded: {error}") from error


def _compile(source, path):
    compiler = _compiler()
    for extra in EXTRA_FLAGS:
        command = [*compiler, *FLAGS, *extra, str(source), "-o", str(path), *_openmp(extra)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
            return
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        except subprocess.TimeoutExpired:
            reason = f"took more than {TIMEOUT_SECONDS} s"
    raise BuildError(f"{shlex.join(compiler)} failed: {reason}")


def _compiler():
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate in [named] if named else [[name] for name in COMPILERS]:
        if shutil.which(candidate[0]):
            return candidate
    raise BuildError(f"no C++ compiler: {shlex.join(named) or ', '.join(COMPILERS)} not found")


def _openmp(flags):
    """Link with the OpenMP that torch has loaded: two of them would keep twice as many threads spinning."""
    if "-fopenmp" not in flags:
        return []
    return ["-Wl,--as-needed", *map(str, sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")))]


def _key(source):
    made_with = (FLAGS, EXTRA_FLAGS, os.environ.get("CXX"), torch.__version__, torch.__file__, _processor())
    return hashlib.sha256(source.read_bytes() + repr(made_with).encode()).hexdigest()[:16]


def _processor():
    """What -march=native looks at: a cache may be shared by unlike machines."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return platform.processor() + platform.machine()
