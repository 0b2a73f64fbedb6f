"""How the kernels come to be compiled, and what happens where they can't."""

import importlib.util
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from quant.functional import fake_quantize
from quant.kernels import build as native_build
from quant.kernels import calls as native
from quant.kernels.build import BuildError, load

WITH_COMPILER = pytest.mark.skipif(not any(map(shutil.which, native_build.COMPILERS)), reason="no C++ compiler here")


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
def test_a_damaged_library_is_replaced(source):
    load(source)
    library, = libraries(source)
    library.unlink()  # it may be mapped still
    library.write_bytes(b"cut short")
    assert load(source)[0].answer() == 42


@WITH_COMPILER
def test_several_may_start_together(source):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(load, [source] * 3))
    assert [library.answer() for library, _ in found] == [42] * 3
    assert len(libraries(source)) == 1


@WITH_COMPILER
def test_where_nothing_can_be_written(source):
    (source.parent / "__pycache__").write_text("a file, where the folder should be")
    assert load(source)[0].answer() == 42


@WITH_COMPILER
def test_flags_that_the_compiler_does_not_know(source, monkeypatch):
    monkeypatch.setattr(native_build, "EXTRA_FLAGS", (("-fno-such-flag",), ()))
    assert load(source)[0].answer() == 42


def test_no_compiler(source, monkeypatch):
    monkeypatch.setenv("PATH", str(source.parent))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match="no C[+][+] compiler"):
        load(source)
    assert libraries(source) == []


@WITH_COMPILER
def test_a_compiler_that_fails(source):
    source.write_text("no C++")
    with pytest.raises(BuildError, match="failed: "):
        load(source)
    assert libraries(source) == []


def test_cxx_names_the_compiler(source, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    with pytest.raises(BuildError, match="no-such-compiler -x not found"):
        load(source)


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
    fresh.setattr(native, "load", lambda source: pytest.fail("was loaded"))
    assert native.quantize([torch.ones(3)], torch.zeros(1), torch.ones(1), 4) is None
    assert not caplog.records


def test_import_compiles_nothing(monkeypatch):
    monkeypatch.setattr(native_build, "load", lambda source: pytest.fail("was loaded"))
    spec = importlib.util.spec_from_file_location("native_again", native.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
