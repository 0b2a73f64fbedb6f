import pytest

from engine.ranks import Ranks, join_processes
from utility import UserError


def test_several_gpus_need_torchrun():
    with pytest.raises(UserError, match="--n_GPUs 4: one process uses one GPU; type torchrun --nproc_per_node 4 "), \
            join_processes(n_gpus=4):
        pass


def test_tests_run_in_one_process(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="type python instead of torchrun"), join_processes(test_only=True):
        pass


def test_one_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with join_processes() as ranks:
        assert ranks == Ranks(0, 1, 0)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    with join_processes() as ranks:
        assert ranks == Ranks(0, 1, 0)


def test_a_rank_that_is_no_number(monkeypatch):
    for name, value in (("RANK", "first"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="RANK=first: is no number"), join_processes():
        pass
