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

from utility import FileError, UserError, atomic_path

COMPILERS = ("c++", "g++", "clang++")
# no contraction: results have to be those of PyTorch's separate operations; the last two let rounding be vectorised
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
# tried in turn: compilers differ in what they know
EXTRA_FLAGS = (("-march=native", "-fopenmp"), ("-fopenmp",), ())
TIMEOUT_SECONDS = 120
DIGEST_SIZE = 32  # bytes of SHA-256


def load(source: Path, functions: dict[str, tuple]) -> tuple[ctypes.CDLL, float]:
    """The compiled `source` as a ctypes.CDLL, and the seconds spent compiling: 0 when it was in the cache.

    functions: {name: (result, arguments)}, ctypes' types of what the library holds. The cache is __pycache__ beside the
    source; a file's name there tells source, flags, compiler, processor and torch apart, and it appears whole, so that
    processes may start together. Where nothing can be kept it is compiled at every start. CXX names another compiler.
    Raises UserError where there is no compiler or it fails, OSError where no temporary file can be written either.
    """
    start = time.perf_counter()
    cached = source.parent / "__pycache__" / f"{source.stem}-{_key(source)}.so"
    if _is_whole(cached):
        with contextlib.suppress(UserError):  # one that can't be loaded is compiled anew
            return _opened(cached, functions), 0.0
    try:
        with atomic_path(cached) as path:
            library = _compiled(source, path, functions)
            with open(path, "ab") as file:  # what follows a library's end is nothing to the system
                file.write(_digest(Path(path).read_bytes()))
    except FileError:
        with tempfile.TemporaryDirectory() as folder:  # the library stays mapped when its file is gone
            library = _compiled(source, Path(folder) / cached.name, functions)
    return library, time.perf_counter() - start


def _is_whole(cached):
    """Whether a library is there and ends with its digest: to open one that was cut off would kill the process."""
    if not os.path.isfile(cached):
        return False
    content = cached.read_bytes()
    return _digest(content[:-DIGEST_SIZE]) == content[-DIGEST_SIZE:]


def _digest(content):
    return hashlib.sha256(content).digest()


def _opened(path, functions):
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in functions.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise UserError(f"the compiled kernels cannot be loaded: {error}") from error
    return library


def _compiled(source, path, functions):
    compiler = _compiler()
    for extra in EXTRA_FLAGS:
        command = [*compiler, *FLAGS, *extra, str(source), "-o", str(path), *_openmp(extra)]
        with tempfile.TemporaryFile() as told:  # a pipe would wait for whatever the compiler has started
            try:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=told,
                                      timeout=TIMEOUT_SECONDS, env={**os.environ, "LC_ALL": "C"}, check=False)
            except OSError as error:
                raise UserError(f"{shlex.join(compiler)} failed: {error.strerror}") from error
            except subprocess.TimeoutExpired as error:
                raise UserError(f"{shlex.join(compiler)} took more than {TIMEOUT_SECONDS} s") from error
            told.seek(0)
            message = told.read().decode(errors="replace")
        if done.returncode == 0:
            return _opened(path, functions)
    reason = (message.strip().splitlines() or ["no message"])[-1]
    raise UserError(f"{shlex.join(compiler)} failed: {reason}")


def _compiler():
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise UserError(f"CXX={os.environ['CXX']} cannot be read: {error}") from error
    for candidate in [named] if named else [[name] for name in COMPILERS]:
        if shutil.which(candidate[0]):
            return candidate
    raise UserError(f"no C++ compiler: {shlex.join(named) or ', '.join(COMPILERS)} not found")


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
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return platform.processor() + platform.machine()
