import logging
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest

from engine.own_files import own_files
from engine.run import logging_to_stdout
from engine.run_folder import RunFolder
from utility import MAKER, UNFINISHED, UNFINISHED_TEST, Stopped, UserError


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


def finished(path):
    """A run's folder with a file of every kind that a run writes."""
    run = RunFolder(path)
    run.make()
    run.describe("epochs: 1")
    for name in ("log.txt", "eval.txt", "loss_L1.png", "psnr_Set5.png", "run/events.out.tfevents.1.host.2.0",
                 "results-Set5/4bit_a b[1]_x4_SR.png", "model/checkpoint.pth.tar", "model/model_best.pth.tar",
                 "model/model_12.pth.tar", f"model/{UNFINISHED}checkpoint.pth.x.tar"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(f"{name} by {MAKER}")
    return run


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_reset_deletes_runs_alone(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.make()
    with pytest.raises(UserError, match="is not a run of this program"):
        run.make(reset=True)
    finished(run.path).make(reset=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert {path.name for path in run.path.rglob("*")} == {"model", ".lock", ".tests"}


def test_pictures_of_losses_that_a_user_has_drawn_stay(tmp_path):
    run = finished(tmp_path / "run")
    for name in ("loss_comparison.png", "psnr_vs_bits.png"):
        (run.path / name).write_text("mine")
    run.make(reset=True)
    assert names(run.path) == {"loss_comparison.png", "psnr_vs_bits.png", ".lock", ".tests"}


def test_copies_that_a_user_has_made_beside_a_runs_files_stay(tmp_path):
    run = finished(tmp_path / "run")
    mine = {"model/model_2_my_favourite.pth.tar", "model/model_best_of_all.pth.tar",
            "results-Set5/3bit_baby_x2_SR_crop_for_paper.png", "results-Set5/64bit_desktop_x2_photo.png"}
    for name in mine:
        (run.path / name).write_text("mine")
    (run.path / "results-Set5" / UNFINISHED_TEST).touch()
    run.make(reset=True)
    assert names(run.path) == mine | {".lock", ".tests"}


def test_a_move_that_is_stopped_ends_first_and_one_that_is_killed_leaves_a_run_that_goes_on(tmp_path, monkeypatch):
    run = finished(tmp_path / "run")
    (run.path / "thesis.tex").write_text("mine")
    everything = {name for name in names(run.path) if UNFINISHED not in name}
    moved, rename = [], Path.rename

    def signalled(path, target):
        moved.append(path)
        if len(moved) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", signalled)
    with pytest.raises(Stopped):
        run.make(archive=True)
    assert moved[-1] == run.checkpoint  # the last one of all
    assert names(tmp_path / "run.old-1") | {"thesis.tex"} == everything
    assert names(run.path) == {"thesis.tex", ".lock", ".tests"}


NESTED = ("below", "model", "run", "results-Set5", "model/deeper")


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("how", ["reset", "archive"])
def test_a_run_below_and_files_of_others_stay_where_they_are(tmp_path, nested, how):
    run = finished(tmp_path / "run")
    own = {run.path / name for name in names(run.path)}
    inner = finished(tmp_path / "run" / nested)
    (run.path / "thesis.tex").write_text("mine")
    (run.path / "results-Set5" / "crop.png").write_text("mine")
    kept = {name for name in names(inner.path) if inner.path / name not in own}
    before = {path: (inner.path / path).read_text() for path in kept}
    run.make(**{how: True})
    assert names(inner.path) >= kept
    assert all((inner.path / path).read_text() == text for path, text in before.items())
    assert (run.path / "thesis.tex").exists() and (run.path / "results-Set5" / "crop.png").exists()
    assert not run.checkpoint.exists() and not (run.path / "results-Set5" / "4bit_a b[1]_x4_SR.png").exists()
    assert (tmp_path / "run.old-1" / "model" / "model_12.pth.tar").exists() == (how == "archive")


@pytest.mark.parametrize("text", ["x", "2020-01-01-00:00:00\n\nepochs: 1\n", "epochs: 1\nsave: run\n"])
def test_a_folder_with_a_config_of_another_program_is_no_run(tmp_path, text):
    (tmp_path / "config.txt").write_text(text)
    with pytest.raises(UserError, match="is not a run of this program"):
        RunFolder(tmp_path).check_writable()
    with pytest.raises(UserError, match="is not a run of this program"):
        RunFolder(tmp_path).make(reset=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.txt"]


@pytest.mark.parametrize("number", [0, 1, 5, -1])
def test_a_reset_that_cannot_delete_says_where_the_rest_is(tmp_path, monkeypatch, number):
    run = finished(tmp_path / "run")
    stuck, unlink = own_files(run.path)[number], Path.unlink

    def refuse(path, **more):
        if path == stuck and not more:
            raise PermissionError(13, "Permission denied")
        unlink(path, **more)

    monkeypatch.setattr(Path, "unlink", refuse)
    (run.path / "model" / f"{UNFINISHED}checkpoint.pth.x.tar").touch()
    with pytest.raises(UserError, match=f"{stuck} can't be deleted .Permission denied.; what is left .* {run.path}$"):
        run.make(reset=True)
    assert stuck.exists() and run.is_run()


@pytest.mark.parametrize("left", ["model/model_best.pth.tar", "model/model_3.pth.tar", "eval.txt"])
def test_results_without_a_checkpoint_are_not_begun_anew(tmp_path, left):
    (tmp_path / "model").mkdir()
    RunFolder(tmp_path).check_continuable()
    (tmp_path / left).write_text("")
    with pytest.raises(UserError, match=f"has results .{Path(left).name}. and no checkpoint"):
        RunFolder(tmp_path).check_continuable()


def test_a_dangling_checkpoint_is_not_begun_anew(tmp_path):
    (tmp_path / "model").mkdir()
    RunFolder(tmp_path).checkpoint.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no checkpoint.pth.tar that can be read"):
        RunFolder(tmp_path).check_continuable()


def test_a_new_run_keeps_the_old_one_aside(tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    for number in range(3):
        run.make(archive=True)
        run.checkpoint.write_text(str(number))
    assert [(tmp_path / name / "model" / "checkpoint.pth.tar").read_text() for name in ("run.old-1", "run.old-2", "run")
            ] == ["0", "1", "2"]


def test_a_folder_that_cannot_be_renamed_is_kept_aside_file_by_file(tmp_path, monkeypatch):
    """As on Windows, where this process has a file open in it."""
    run = finished(tmp_path / "run")
    models = [path.name for path in run.models()]
    rename = Path.rename

    def refuses(path, target):
        if path == run.path:
            raise PermissionError(13, "in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuses)
    run.make(archive=True)
    assert [path.name for path in RunFolder(tmp_path / "run.old-1").models()] == models
    assert RunFolder(tmp_path / "run.old-1").is_run() and not run.has_run()


@pytest.mark.parametrize("others", [False, True])
def test_a_link_to_a_large_disk_names_the_next_run_too(tmp_path, others):
    first = finished(tmp_path / "disk" / "run")
    models = [path.name for path in first.models()]
    if others:
        (first.path / "notes.md").write_text("mine")
    run = RunFolder(tmp_path / "run")
    run.path.symlink_to(first.path)
    run.make(archive=True)
    run.checkpoint.write_text("new")
    assert [path.name for path in RunFolder(tmp_path / "disk" / "run.old-1").models()] == models
    assert run.told_aside().endswith(f"is in {tmp_path / 'disk' / 'run.old-1'}")
    assert run.path.is_symlink() and [path.name for path in run.models()] == ["checkpoint.pth.tar"]
    assert (tmp_path / "disk" / "run" / "model" / "checkpoint.pth.tar").read_text() == "new"
    assert (tmp_path / "disk" / "run" / "notes.md").is_file() == others


def test_results_of_tests_are_kept_aside_too(tmp_path):
    """As of a shipped network that test.sh has tested under the run's name: a report would mix them with the run's."""
    run = finished(tmp_path / "run")
    for file in [*run.models()]:
        file.unlink()
    run.make(archive=True)
    assert "eval.txt" in names(tmp_path / "run.old-1")
    assert "eval.txt" not in names(run.path) and not list(run.path.glob("results-*"))


def test_kept_epochs_alone_are_a_run_too(tmp_path):
    run = finished(tmp_path / "run")
    run.checkpoint.unlink()
    run.best.unlink()
    run.make(archive=True)
    assert (tmp_path / "run.old-1" / "model" / "model_12.pth.tar").exists() and not run.kept_epochs()


@pytest.mark.parametrize("how", ["reset", "archive"])
def test_what_lies_behind_a_link_stays_there(tmp_path, how):
    run, other = finished(tmp_path / "run"), finished(tmp_path / "elsewhere")
    before = names(other.path)
    shutil.rmtree(run.path / "model")
    (run.path / "model").symlink_to(other.path / "model")
    (run.path / "nested").symlink_to(other.path)
    with run.claimed():
        run.make(**{how: True})
    assert names(other.path) == before and (run.path / "nested").samefile(other.path)
    assert not (run.path / "model").is_symlink() and not run.models()
    assert (tmp_path / "run.old-1" / "model").is_symlink() == (how == "archive")
