"""Compile a C++ file with the machine's compiler at first use, and load it with ctypes."""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
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
DIGEST_BYTES = hashlib.sha256().digest_size


class BuildError(Exception):
    """Why there is no library, in one line of text that any stream can take."""

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.encode(errors="backslashreplace").decode().split()))


def load(source: Path, functions: dict[str, tuple]) -> tuple[ctypes.CDLL, float]:
    """The compiled `source` as a ctypes.CDLL, and the seconds spent compiling: 0 when it was in the cache.

    functions: {name: (result, arguments)}, ctypes' types of what the library holds. The cache is a folder of its own in
    __pycache__ beside the source; a file's name there tells source, flags, processor and torch apart. It appears whole,
    so that processes may start together, and ends in a digest, so that a damaged one is never loaded; nor is one that
    others may write. Where nothing can be kept it is compiled at every start. CXX names another compiler. Raises
    BuildError where there is no compiler or it fails.
    """
    start = time.perf_counter()
    key = _key(source)
    cached = source.parent / "__pycache__" / "kernels" / f"{source.stem}-{key}.so"
    try:
        if cached.is_file() and _is_ours(cached) and _is_ours(cached.parent) and _is_whole(cached, key):
            return _opened(cached, functions), 0.0
    except (OSError, BuildError):
        pass  # compiled again below
    return _compiled(source, cached, key, functions), time.perf_counter() - start


def _is_ours(path):
    """Whether nobody but this user and root could have written the file or folder."""
    if not hasattr(os, "geteuid"):
        return True
    found = path.stat()
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_whole(path, key):
    """Whether the file ends in the digest of what comes before: mapping half a library would end the process."""
    content = path.read_bytes()
    return content[-DIGEST_BYTES:] == _digest(content[:-DIGEST_BYTES], key)


def _digest(library, key):
    return hashlib.sha256(library + key.encode()).digest()


def _opened(path, functions):
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in functions.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise BuildError(f"the compiled kernels cannot be loaded: {error}") from error
    return library


def _compiled(source, cached, key, functions):
    """Compile where the cache is, else where temporary files go; what can be loaded is kept."""
    compiler = _compiler()
    with contextlib.suppress(OSError):
        cached.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    for place in (cached.parent, None):
        try:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                path = Path(folder) / cached.name
                _compile(compiler, source, path)
                library = _opened(path, functions)  # stays mapped when the file is gone
                with contextlib.suppress(OSError):
                    _keep(path.read_bytes(), cached, key)
                return library
        except OSError as error:
            reason = error
    raise BuildError(f"the compiled kernels cannot be written: {reason}")


def _keep(content, cached, key):
    with atomic_path(cached) as path:
        path.write_bytes(content + _digest(content, key))
    cached.chmod(stat.S_IMODE(cached.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))


def _compile(compiler, source, path):
    for extra in EXTRA_FLAGS:
        reason = _run([*compiler, *FLAGS, *extra, str(source), "-o", str(path), *_openmp(extra)])
        if reason is None:
            return
    raise BuildError(f"{shlex.join(compiler)} failed: {reason}")


def _run(command):
    """Run a compiler; None, or its last line where it fails. One that takes too long is ended with its children."""
    with tempfile.TemporaryFile() as said:  # no pipe: a child that outlives the compiler would hold it open
        try:
            compiler = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                                        env={**os.environ, "LC_ALL": "C"}, start_new_session=True)
        except OSError as error:
            return error.strerror
        try:
            if compiler.wait(TIMEOUT_SECONDS) == 0:
                return None
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{shlex.join(command[:1])} took more than {TIMEOUT_SECONDS} s") from error
        finally:
            if compiler.returncode is None:
                _end(compiler)
        said.seek(0)
        return (said.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]


def _end(compiler):
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(compiler.pid, signal.SIGKILL)
        else:
            compiler.kill()
    compiler.wait()


def _compiler():
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BuildError(f"CXX={os.environ['CXX']} cannot be read: {error}") from error
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
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return platform.processor() + platform.machine()
