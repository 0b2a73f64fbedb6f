import logging
import resource

import pytest

from engine.run_folder import RunFolder, logging_to_stdout
from utility import UserError


def test_the_log_file_has_the_lines_from_before_there_was_one(tmp_path, capsys):
    log = logging.getLogger("a.module")
    with pytest.raises(UserError), logging_to_stdout() as to_file:
        log.info("first")
        to_file(tmp_path / "log.txt")
        log.warning("second")
        raise UserError("third")
    log.warning("not in it")
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\nerror: third\n"
    assert capsys.readouterr().out == "first\nsecond\n"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        with logging_to_stdout() as to_file:
            to_file(tmp_path / "log.txt")
            logging.getLogger("a.module").info("lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "log.txt").read_text() == "l"


def test_reset_deletes_runs_alone(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start()
    with pytest.raises(UserError, match="is not a run of this program"):
        run.start(reset=True)
    run.describe("epochs: 1")
    (run.path / "note.txt").write_text("")
    run.start(reset=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in run.path.iterdir()] == ["model"]


def test_a_new_run_keeps_the_old_one_aside(tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    for number in range(3):
        run.start(archive=True)
        run.checkpoint.write_text(str(number))
    assert [(tmp_path / name / "model" / "checkpoint.pth.tar").read_text() for name in ("run.old-1", "run.old-2", "run")
            ] == ["0", "1", "2"]


def test_a_run_begins_once(tmp_path):
    run = RunFolder(tmp_path / "run")
    times = []
    run.prepare = lambda: times.append(1)
    run.begin()
    run.begin()
    assert times == [1]
