"""How the kernels come to be compiled, and what happens where they can't."""

import ctypes
import importlib.util
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from quant.functional import fake_quantize
from quant.kernels import build as native_build
from quant.kernels import calls as native
from utility import UserError

WITH_COMPILER = pytest.mark.skipif(not any(map(shutil.which, native_build.COMPILERS)), reason="no C++ compiler here")


FUNCTIONS = {"answer": (ctypes.c_int, ())}


def load(source):
    return native_build.load(source, FUNCTIONS)


@pytest.fixture
def source(tmp_path):
    """A small C++ file in a folder of its own."""
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return 42; }')
    return path


@pytest.fixture
def fresh(monkeypatch):
    """Let the kernels be looked for anew, and forgotten again."""
    native._library.cache_clear()
    yield monkeypatch
    native._library.cache_clear()


def libraries(source):
    return sorted((source.parent / "__pycache__").glob("*"))


@WITH_COMPILER
def test_compiles_once(source):
    library, seconds = load(source)
    assert library.answer() == 42 and seconds > 0
    library, seconds = load(source)
    assert library.answer() == 42 and seconds == 0
    assert len(libraries(source)) == 1


@WITH_COMPILER
def test_a_changed_source_is_compiled_again(source):
    load(source)
    source.write_text('extern "C" int answer() { return 43; }')
    library, seconds = load(source)
    assert library.answer() == 43 and seconds > 0


@WITH_COMPILER
@pytest.mark.parametrize("damaged", [lambda whole: b"", lambda whole: b"no library", lambda whole: whole[:4096],
                                     lambda whole: whole[: len(whole) // 2], lambda whole: whole[:-1]])
def test_a_damaged_library_is_compiled_again(source, damaged):
    """One that was cut off, were it opened, would kill the process."""
    load(source)
    library, = libraries(source)
    content = library.read_bytes()
    library.unlink()  # the file itself is mapped
    library.write_bytes(damaged(content))
    found, seconds = load(source)
    assert found.answer() == 42 and seconds > 0
    assert load(source)[1] == 0


@WITH_COMPILER
def test_a_library_without_the_functions_is_not_kept(source):
    source.write_text('extern "C" int question() { return 42; }')
    with pytest.raises(UserError, match="cannot be loaded: .*answer"):
        load(source)
    assert libraries(source) == []


@WITH_COMPILER
def test_several_may_start_together(source):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(load, [source] * 3))
    assert [library.answer() for library, _ in found] == [42] * 3
    assert len(libraries(source)) == 1


@WITH_COMPILER
def test_where_nothing_can_be_kept(source):
    (source.parent / "__pycache__").write_text("a file, where the folder should be")
    assert load(source)[0].answer() == 42


@WITH_COMPILER
def test_where_nothing_can_be_written(source, monkeypatch):
    (source.parent / "__pycache__").write_text("a file, where the folder should be")
    monkeypatch.setattr(native_build.tempfile, "tempdir", str(source))
    with pytest.raises(OSError, match="Not a directory"):
        load(source)


@WITH_COMPILER
def test_flags_that_the_compiler_does_not_know(source, monkeypatch):
    monkeypatch.setattr(native_build, "EXTRA_FLAGS", (("-fno-such-flag",), ()))
    assert load(source)[0].answer() == 42


def test_no_compiler(source, monkeypatch):
    monkeypatch.setenv("PATH", str(source.parent))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="no C[+][+] compiler"):
        load(source)
    assert libraries(source) == []


@WITH_COMPILER
def test_a_compiler_that_fails(source):
    source.write_text("no C++")
    with pytest.raises(UserError, match="failed: "):
        load(source)
    assert libraries(source) == []


def test_cxx_names_the_compiler(source, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    with pytest.raises(UserError, match="no-such-compiler -x not found"):
        load(source)


@pytest.mark.parametrize("named, told", [
    ("g++ 'x", "CXX=g[+][+] 'x cannot be read: No closing quotation"), ("/", "/ not found"),
    ("c\udce9 -O2", "-O2 not found"), ("{source}", "not found"),
])
def test_odd_names_of_compilers(source, monkeypatch, named, told):
    monkeypatch.setenv("CXX", named.format(source=source))
    with pytest.raises(UserError, match=told):
        load(source)


@pytest.mark.parametrize("does, told", [
    (r"printf '\351chec\n' >&2; exit 1", "failed: .chec"), ("exit 0", "cannot be loaded: "), ("exit 3", "no message"),
    ("kill -9 $$", "no message"), ("cat; exit 1", "no message"),
], ids=["no UTF-8", "makes nothing", "says nothing", "dies", "reads its input"])
def test_odd_compilers(source, monkeypatch, does, told):
    monkeypatch.setenv("CXX", str(program(source, f"#!/bin/sh\n{does}\n")))
    with pytest.raises(UserError, match=told):
        load(source)
    assert libraries(source) == []


def test_a_compiler_that_is_no_program(source, monkeypatch):
    monkeypatch.setenv("CXX", str(program(source, "\0\1\2")))
    with pytest.raises(UserError, match="Exec format error"):
        load(source)


def test_a_compiler_that_hangs_is_ended(source, monkeypatch):
    monkeypatch.setattr(native_build, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setenv("CXX", str(program(source, "#!/bin/sh\nexec sleep 99\n")))
    with pytest.raises(UserError, match="took more than 0.5 s"):
        load(source)
    assert libraries(source) == []


def program(source, text):
    path = source.with_name("compiler")
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_quantizers_work_without_a_compiler(fresh, caplog, tmp_path):
    fresh.setattr(native, "SOURCE", tmp_path / "kernels.cpp")
    native.SOURCE.write_text("")
    fresh.setenv("CXX", "no-such-compiler")
    x, lower, upper = torch.tensor([-9, -0.9, 0.2, 1.4, 9]), torch.tensor([-1.0]), torch.tensor([2.0])
    with caplog.at_level(logging.WARNING):
        y = [fake_quantize(x, lower, upper, 2) for _ in range(2)]
    assert y[0].tolist() == y[1].tolist() == [-1, -1, 0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "quantizers run in PyTorch's operations, with the same results but slower: "
        "no C++ compiler: no-such-compiler not found"]


def test_switched_off(fresh, caplog):
    fresh.setenv("DDTB_KERNELS", "0")
    fresh.setattr(native, "load", lambda *_: pytest.fail("was loaded"))
    assert native.quantize([torch.ones(3)], torch.zeros(1), torch.ones(1), 4) is None
    assert not caplog.records


def test_import_compiles_nothing(monkeypatch):
    monkeypatch.setattr(native_build, "load", lambda *_: pytest.fail("was loaded"))
    spec = importlib.util.spec_from_file_location("native_again", native.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
