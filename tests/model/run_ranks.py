"""Run entry points in several processes, as torchrun does, from one process that has done the imports.

    python run_ranks.py '[{"name": ..., "quantized": ..., "argv": [...], "world": 2, "kill": [rank, signal],
                          "late": rank}, ...]'

A job's processes run in its working directory <name>/work; with `kill` that rank gets the signal after the second
checkpoint; rank `late` looks for a checkpoint to continue from LATE seconds later, or once there is one. Prints a JSON
list: for each job {"codes": [...], "told": [each stderr], "seconds": until all had ended}.
"""

import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch._dynamo  # noqa: E402, F401  slow to import, so once and before the forks

import main_limitrange_incremental  # noqa: E402
import main_ori  # noqa: E402
from engine.recorder import Recorder  # noqa: E402
from engine.run_folder import RunFolder  # noqa: E402
from utility import run_main  # noqa: E402

PATIENCE = 300  # seconds until a job hangs; on a busy machine some take a minute
LATE = 2


def main():
    Recorder._draw = lambda *_: None
    jobs = json.loads(sys.argv[1])
    print(json.dumps([run(**job) for job in jobs]))


def run(name, quantized, argv, world, kill=None, late=None):
    work = Path(name, "work").absolute()
    work.mkdir(parents=True, exist_ok=True)
    port = free_port()
    program = main_limitrange_incremental if quantized else main_ori
    children = [fork(program, argv, work, rank, world, port, rank == late) for rank in range(world)]
    checkpoint = work.parent / "experiment" / "run" / "model" / "checkpoint.pth.tar"
    start = time.perf_counter()
    if kill:
        for _ in range(2):
            wait_for_change(checkpoint)
        os.kill(children[kill[0]], kill[1])
        start = time.perf_counter()
    codes = [end(child, start + PATIENCE) for child in children]
    told = [(work / f"{rank}.err").read_text() for rank in range(world)]
    return {"codes": codes, "told": told, "seconds": time.perf_counter() - start}


def free_port():
    """A port that nobody uses, below those that the system gives to connections: one of them could be gone by then."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("localhost", port)):
            return port


def fork(program, argv, work, rank, world, port, late):
    child = os.fork()
    if child:
        return child
    os.chdir(work)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost",
                       "MASTER_PORT": str(port)}
    if late:
        RunFolder.to_continue = lookup_later(RunFolder.to_continue)
    code = run_main(lambda: program.main(argv))
    sys.stderr.flush()
    os._exit(code)


def lookup_later(to_continue):
    """`to_continue`, called when the checkpoint is there, or after LATE seconds."""
    def later(folder):
        deadline = time.perf_counter() + LATE
        while not folder.checkpoint.exists() and time.perf_counter() < deadline:
            time.sleep(0.01)
        return to_continue(folder)

    return later


def wait_for_change(path):
    before = path.stat().st_mtime_ns if path.exists() else None
    while (path.stat().st_mtime_ns if path.exists() else None) == before:
        time.sleep(0.002)


def end(child, deadline):
    """The exit code of a child; one that is still there at the deadline is killed, -9."""
    while time.perf_counter() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
