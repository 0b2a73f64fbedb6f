import os
import signal
import threading

import pytest
import torch

from utility import (
    UNFINISHED,
    Stopped,
    UserError,
    append_text,
    atomic_path,
    holding_signals,
    read_torch_file,
    remove_unfinished,
    run_main,
    save_torch_file,
)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("result, code", [(None, 0), (0, 0), (3, 3)])
def test_exit_code_of_a_program_that_returns(result, code):
    assert run_main(lambda: result) == code


def test_a_user_error_is_one_line_and_code_2(capfd):
    assert run_main(raising(UserError("--scale 5: no"))) == 2
    assert capfd.readouterr().err == "error: --scale 5: no\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_one_line_and_its_code(number, capfd):
    before = signal.signal(number, signal.SIG_DFL)  # the suite itself may run under nohup
    try:
        assert run_main(lambda: os.kill(os.getpid(), number)) == 128 + number
    finally:
        signal.signal(number, before)
    assert capfd.readouterr().err == f"stopped by {number.name}: nothing that was saved is lost\n"


def test_hangups_that_nohup_ignores_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_main(lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_programs_run_outside_of_the_main_thread():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run_main(lambda: 5)))
    thread.start()
    thread.join()
    assert codes == [5]


def test_a_full_disk_is_told(capfd):
    assert run_main(raising(OSError(28, "No space left on device", "run/loss_L1.png"))) == 1
    assert capfd.readouterr().err == \
        "error: run/loss_L1.png: can't be written (No space left on device); what was saved is kept\n"


def test_a_held_signal_waits_for_the_end_of_the_block():
    steps = []
    with pytest.raises(Stopped) as caught, holding_signals() as held:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append(held.number)
    assert steps == [signal.SIGTERM]
    assert caught.value.number == signal.SIGTERM


def test_an_error_in_a_block_that_holds_a_signal_is_not_hidden():
    with pytest.raises(UserError), holding_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise UserError("disk")


@pytest.mark.parametrize("error", [ValueError, Stopped(15), KeyboardInterrupt])
def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "state.pt"
    path.write_text("old")
    with pytest.raises(BaseException) as caught, atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise error
    assert caught.type is not SystemExit
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("state.pt", "old")]


def test_an_unfinished_file_is_known_by_its_name(tmp_path):
    with atomic_path(tmp_path / ("x" * 250 + ".png")) as temporary:
        assert temporary.name.startswith(UNFINISHED) and temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.write_text("whole")
        remove_unfinished(tmp_path, older_than=60)
        assert temporary.exists()


def test_equal_values_are_equal_files_under_any_name(tmp_path):
    value = {"a": torch.arange(3.0), "b": [1, "x"]}
    for name in ("one.pt", "another.pt"):
        save_torch_file(value, tmp_path / name)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()
    assert torch.equal(read_torch_file(tmp_path / "one.pt")["a"], value["a"])


@pytest.mark.parametrize("old", [True, False])
def test_files_of_every_format_of_torch_are_read(tmp_path, old):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    assert torch.equal(read_torch_file(tmp_path / "a.pt")["a"], torch.ones(2))


@pytest.mark.parametrize("before, after", [
    (None, "new\n"), ("", "new\n"), ("old\n", "old\nnew\n"), ("old\nha", "old\nha\nnew\n"), ("é", "é\nnew\n"),
])
def test_appended_lines_stand_on_lines_of_their_own(tmp_path, before, after):
    path = tmp_path / "eval.txt"
    if before is not None:
        path.write_text(before, encoding="utf-8")
    append_text(path, "new\n")
    assert path.read_text(encoding="utf-8") == after


def test_appending_where_one_cannot_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="log.txt: can't be written"):
        append_text(tmp_path / "nowhere" / "log.txt", "new\n")
