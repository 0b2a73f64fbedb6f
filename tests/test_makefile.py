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

    def run(*targets, refused="-", code=0):
        asked.write_text("")
        done = subprocess.run(["make", *targets, f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True,
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
    assert [line.split()[-1] for line in installs] == ["requirements.txt", "requirements-deploy.txt",
                                                       "requirements-dev.txt"]
    assert test == "python -m pytest -n 2 --dist loadfile"
    assert make("test") == [test]
    assert make("slow") == ["python -m pytest -m slow"]
    assert make("lint") == ["ruff check .", "python -m mypy"]
    assert make("results") == ["python -m examples.results --dir_data datasets"]
    assert make("web", "FLAGS=--port 8001") == ["python -m examples.web.serve --port 8001"]


def test_random_orders_differ(make):
    make("test")
    assert make("test-random") == [f"python -m pytest --random-order --random-order-seed={seed}" for seed in (1, 2, 3)]


def test_the_oldest_packages_are_those_that_the_requirements_name(make, tmp_path):
    install, test = make("test-oldest", f"OLDEST={tmp_path}")
    assert install.endswith(f"-r {tmp_path}/oldest.txt") and test == "python -m pytest"
    pinned = (tmp_path / "oldest.txt").read_text().split()
    named = [line for file in ROOT.glob("requirements*.txt") for line in file.read_text().split("\n") if ">" in line]
    assert sorted(pinned) == sorted(line.replace(">=", "==") for line in named)


def test_an_install_that_failed_is_tried_again(make):
    assert len(make("demo", refused="install", code=2)) == 1
    assert len(make("demo")) == 2


def test_ci_runs_the_tests():
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if not line.startswith("#")]
    assert commands[-1] == "make test"
