import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from engine.run_folder import RunFolder
from model.torch_file import read_torch_file, save_torch_file
from utility import (
    UNFINISHED,
    FileError,
    Stopped,
    UserError,
    atomic_path,
    check_file,
    check_output,
    holding_signals,
    remove_unfinished,
    run_main,
    whole_number,
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
        remove_unfinished(tmp_path)
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
    RunFolder(tmp_path).append("eval.txt", "new\n")
    assert path.read_text(encoding="utf-8") == after


def test_appending_where_one_cannot_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="log.txt: can't be written"):
        RunFolder(tmp_path / "nowhere").append("log.txt", "new\n")


@pytest.mark.parametrize("text, number", [("0", 0), ("0042", 42), ("9" * 18, 10**18 - 1), ("²", None), ("١٢", None),
                                          ("9" * 5000, None), ("", None), ("-1", None), ("1_0", None), (" 1", None)])
def test_whole_numbers_are_ascii_digits(text, number):
    assert whole_number(text) == number


def test_an_output_of_somebody_else_is_kept_and_an_input_always(tmp_path):
    path = tmp_path / "x.csv"
    check_output(path, flag="--csv", mark=b"ours")
    path.write_text("ours, written before")
    check_output(path, flag="--csv", mark=b"ours")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UserError, match="--csv .*x.csv: would overwrite what is read"):
        check_output(path, flag="--csv", mark=b"ours", inputs=[tmp_path / "link"], force=True)
    path.write_text("a diary")
    with pytest.raises(UserError, match="--csv .*x.csv: would overwrite a file that this tool did not write"):
        check_output(path, flag="--csv", mark=b"ours")
    check_output(path, flag="--csv", mark=b"ours", force=True)


def test_no_output_takes_the_place_of_a_folder_or_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path, "a folder"), (tmp_path / "pipe", "a pipe or device")):
        with pytest.raises(UserError, match=f"is {kind}; give an ordinary file"):
            check_output(path, flag="--out", mark=b"", force=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR])
def test_what_the_system_refuses_is_one_line(number, capfd):
    assert run_main(raising(OSError(number, os.strerror(number), "a/b.png"))) == 1
    assert capfd.readouterr().err == f"error: a/b.png: {os.strerror(number)}\n"


@pytest.mark.parametrize("words, told", [
    ("CUDA error: out of memory", "out of memory"), ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when", "out of memory"),
    ("MPS backend out of memory (MPS allocated: 1 GB)", "out of memory"),
    ("CUDA error: all CUDA-capable devices are busy or unavailable", "the GPU is busy, perhaps with another program")])
def test_what_a_gpu_refuses_is_one_line(words, told, capfd):
    assert run_main(raising(RuntimeError(words))) == 1
    err = capfd.readouterr().err
    assert err.startswith(f"error: {told}") and err.count("\n") == 1


def test_what_the_system_refuses_without_a_file_name_is_one_line(capfd):
    assert run_main(raising(OSError(errno.EIO, os.strerror(errno.EIO)))) == 1
    assert run_main(raising(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))) == 1
    assert capfd.readouterr().err == "error: the system: Input/output error\nerror: out of memory\n"


def test_a_file_that_can_be_opened_and_not_read_is_named():
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("needs a file whose first byte can't be read")
    with pytest.raises(UserError, match="--refine /proc/self/mem: cannot be read .Input/output error."):
        check_file("/proc/self/mem", "--refine")


def test_control_characters_of_names_keep_to_the_line(capfd):
    assert run_main(raising(UserError("a\nb\x1b[31m.png: é"))) == 2
    assert capfd.readouterr().err == "error: a\\nb\\x1b[31m.png: é\n"
    assert str(FileError("a\r.pt")) == "a\\r.pt"


def test_a_full_disk_is_known_also_by_a_librarys_own_exception(tmp_path):
    with pytest.raises(FileError, match="x.bin: can't be written .No space left on device.; what was there is kept"), \
            atomic_path(tmp_path / "x.bin"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert not list(tmp_path.iterdir())


def _replaced(path):
    """Write a file as safetensors does: a private one of its own takes the place."""
    other = path.with_name("other")
    other.touch(0o600)
    other.replace(path)


@pytest.mark.parametrize("write", [lambda path: path.write_text("x"), _replaced], ids=["written", "replaced"])
def test_new_files_have_the_mode_that_the_umask_leaves(write, tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "x") as temporary:
            write(temporary)
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


PRINTING = """
import sys
from utility import run_main
sys.exit(run_main(lambda: [print("\\udcff \\u00d7", "x" * 100) for _ in range(int(sys.argv[1]))] and 0))
"""


@pytest.mark.parametrize("lines", ["1", "10000"])
def test_a_reader_that_has_gone_is_no_traceback(lines):
    program = subprocess.Popen([sys.executable, "-c", PRINTING, lines], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait() in (0, 128 + signal.SIGPIPE)
    program.stderr.close()


def test_text_that_a_terminal_cannot_show_is_shown_with_backslashes():
    done = subprocess.run([sys.executable, "-c", PRINTING, "1"], capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (0, b"\\udcff \\xd7 " + b"x" * 100 + b"\n")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed_from_the_start(redirection):
    done = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-c", PRINTING, "1"],
                          capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_link_in_a_loop_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    assert run_main(lambda: (tmp_path / "loop").resolve(strict=True) and 0) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "loop" in told and told.count("\n") == 1


def test_a_system_without_sigpipe(monkeypatch):
    """Windows has none, and flushes no file that was opened for reading alone."""
    def gone():
        raise BrokenPipeError

    monkeypatch.delattr(signal, "SIGPIPE")
    assert run_main(gone) == 141


def test_files_are_flushed_by_one_that_may_write(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE))
    with atomic_path(tmp_path / "x") as path:
        path.write_text("new")
    assert flushed == [os.O_RDWR] and (tmp_path / "x").read_text() == "new"
