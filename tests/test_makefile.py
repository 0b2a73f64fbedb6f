import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def make(tmp_path):
    """Function that makes a target with a pretended virtual environment; returns what its python was asked to do."""
    (tmp_path / "bin").mkdir()
    asked = tmp_path / "asked"
    for name in ("python", "ruff"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {asked}\n[ "$3" != "$REFUSED" ]\n')
        program.chmod(0o755)

    def run(target, *, refused="-", code=0):
        asked.write_text("")
        done = subprocess.run(["make", target, f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True,
                              env={"PATH": "/usr/bin:/bin:/usr/local/bin", "REFUSED": refused})
        assert done.returncode == code, done.stderr
        return asked.read_text().splitlines()

    return run


def test_demo_installs_once(make):
    install, demo = make("demo")
    assert install.startswith("python -m pip install") and install.endswith("-r requirements.txt")
    assert demo == "python -m examples.demo"
    assert make("demo") == [demo]


def test_test_installs_what_it_needs_once(make):
    *installs, test = make("test")
    assert [line.split()[-1] for line in installs] == ["requirements.txt", "requirements-dev.txt"]
    assert test == "python -m pytest"
    assert make("test") == [test]
    assert make("slow") == ["python -m pytest -m slow"]
    assert make("lint") == ["ruff check ."]
    assert make("results") == ["python -m examples.results --dir_data datasets"]


def test_an_install_that_failed_is_tried_again(make):
    assert len(make("demo", refused="install", code=2)) == 1
    assert len(make("demo")) == 2


def test_ci_runs_the_tests():
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if not line.startswith("#")]
    assert commands[-1] == "make test"
