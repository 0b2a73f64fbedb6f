"""The benchmarks' flags."""

import pytest

from benchmarks import bicubic, test_forward


@pytest.mark.parametrize("main, flags, message", [
    (bicubic.main, "--scale 0", "--scale: 0: give a number above 0"), (bicubic.main, "--runs x", "--runs: x: give 1"),
    (bicubic.main, "--scale inf", "--scale: inf: give"), (test_forward.main, "--repeats -1", "--repeats: -1: give 1"),
    (test_forward.main, "--device nowhere", "--device: nowhere: is no device here")])
def test_mistakes_are_told_before_anything_is_measured(capsys, main, flags, message):
    with pytest.raises(SystemExit):
        main(flags.split())
    assert message in capsys.readouterr().err
