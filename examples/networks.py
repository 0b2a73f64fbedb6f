"""All networks of the results table, by one command: trained, quantized, packed, tested. `make networks`.

    python -m examples.networks --photos PHOTOGRAPHS --dir_data datasets [--budget short] [--jobs 2] [--only edsr_x4]
    python -m examples.networks --list

A stage is one network; those of examples/budgets.py are worked off in order. A stage whose file lies in pretrained/ is
finished and is left out; one that was stopped goes on from its last checkpoint, or, on a machine that does not have it,
from the weights that --park put beside the finished ones. What happened is kept in ../experiment/networks/journal.txt.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from data.images import image_files
from examples import stages
from examples.budgets import HELD_OUT, RATIOS, SHORT, WIDTHS, Full
from option import EXPERIMENT_ROOT
from utility import UserError, first_line, run_main

PAPER = [f"{model}_x{scale}" for model in RATIOS for scale in (2, 4)]


def main(argv=None):
    """Work the queue off. Returns 1 when a stage failed; the others are done all the same."""
    options = parse(argv)
    if options.budget == "paper":
        return paper(options)
    known = {stage.network for stage in SHORT}
    if unknown := set(options.only) - known:
        raise UserError(f"--only {min(unknown)}: choose {', '.join(sorted(known))}")
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: give 1 or more")
    chosen = [stage for stage in SHORT if not options.only or stage.network in options.only]
    if options.list:
        print(overview(chosen))
        return 0
    if options.park:
        for path, epochs in stages.park(chosen):
            print(f"{path}: {epochs} epochs")
        return 0
    if options.photos:
        prepare(options.photos, options.dir_data)
    data = stages.DataFlags(options.dir_data)
    queue = Queue(chosen, lambda stage: stages.commands(stage, data, options.device), jobs=options.jobs)
    return queue.work()


def parse(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--budget", choices=("short", "paper"), default="short",
                        help="short: examples/budgets.py; paper: baseline.sh and run.sh, on DIV2K (default: short)")
    parser.add_argument("--photos", type=Path, help="folder of folders of photographs to make the training set of")
    parser.add_argument("--dir_data", type=Path, default=Path("datasets"), help="data root (default: %(default)s)")
    parser.add_argument("--only", nargs="*", default=[], metavar="NETWORK", help="these alone, as edsr_x4")
    parser.add_argument("--jobs", type=int, default=1, help="stages at a time, each on one core (default: 1)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="what trains (default: cpu)")
    parser.add_argument("--list", action="store_true", help="print what is done, what is not, and how long it takes")
    parser.add_argument("--park", action="store_true", help="keep the weights of unfinished training in pretrained/")
    return parser.parse_args(argv)


def prepare(photos, dir_data):
    """DIV2K's layout from folders of photographs; those of HELD_OUT come last. Checked and completed if it is there."""
    source = dir_data / "photographs"
    source.mkdir(parents=True, exist_ok=True)
    train, held = [], []
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        files = image_files(folder)
        kept = HELD_OUT.get(folder.name, 0)
        if len(files) <= kept:
            raise UserError(f"--photos {folder}: {kept} of its images are kept from training, it has {len(files)}; "
                            "give the whole folder, or change HELD_OUT in examples/budgets.py")
        train += files[: len(files) - kept]
        held += files[len(files) - kept:]
    for number, path in enumerate(train + held, 1):
        link = source / f"{number:04d}{path.suffix}"
        if not link.is_symlink():
            link.symlink_to(path.resolve())
    subprocess.run([sys.executable, "-m", "data.prepare", "--hr", str(source), "--out", str(dir_data / "DIV2K"),
                    "--scales", "2", "4"], check=True, env={**os.environ, "PYTHONPATH": str(stages.ROOT)})


def overview(chosen):
    """A line a stage: done, how far, or how long it would take on one core."""
    lines, total = [], 0.0
    for stage in chosen:
        hours = stage.duration / 3600
        done = stages.finished(stage)
        total += 0 if done else hours
        lines.append(f"{stage.name:32}{'done' if done else 'open':8}{hours:6.1f} h")
    return "\n".join([*lines, f"{'left, on one core':40}{total:6.1f} h"])


class Queue:
    """Runs the commands of stages, `jobs` stages at a time, in order; one that waits for another is passed over."""

    def __init__(self, chosen, commands_of, *, jobs):
        self.waiting = [stage for stage in chosen if not stages.finished(stage)]
        self.commands_of = commands_of
        self.jobs = jobs
        self.running = {}  # process: (stage, its further commands, when it began)
        self.failed = []
        self.folder = EXPERIMENT_ROOT / stages.RUNS
        self.folder.mkdir(parents=True, exist_ok=True)

    def work(self):
        """Until nothing is left. Returns 1 when a stage failed, else 0."""
        try:
            while self.start() or self.running:
                time.sleep(1)
                for process in [process for process in self.running if process.poll() is not None]:
                    stage, rest, began = self.running.pop(process)
                    self.next(stage, rest, began, process.returncode)
        except BaseException:
            self.stop()
            raise
        return 1 if self.failed or self.waiting else 0

    def start(self):
        """Begin stages while there are free places. Returns whether any began."""
        began = False
        while len(self.running) < self.jobs and (stage := next(filter(self.ready, self.waiting), None)):
            self.waiting.remove(stage)
            self.note(stage, f"begun, about {stage.duration / 3600:.1f} h on one core")
            self.next(stage, self.commands_of(stage), time.time(), 0)
            began = True
        return began

    def ready(self, stage):
        """Whether what the stage starts from is there."""
        needed = stage.start if isinstance(stage, Full) else stage.network
        at_work = [*self.waiting, *(running[0] for running in self.running.values())]
        return not needed or stages.full_precision(needed).is_file() and not any(
            isinstance(other, Full) and other.network == needed for other in at_work)

    def next(self, stage, rest, began, code):
        """Run a stage's next command, or note its end."""
        try:
            command = next(rest, None) if code == 0 else None
        except (UserError, OSError, KeyError) as error:
            command, code = None, error
        if command is None:
            if code:
                self.failed.append(stage)
            self.note(stage, f"failed ({code}); see {stage.name}.log" if code else
                      f"finished after {(time.time() - began) / 3600:.2f} h")
            return
        with open(self.folder / f"{stage.name}.log", "a") as file:
            file.write(f"$ {' '.join(command)}\n")
            file.flush()
            # one thread a stage, unless OMP_NUM_THREADS says otherwise
            environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **os.environ,
                           "PYTHONPATH": str(stages.ROOT)}
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment,
                                       start_new_session=True)
        self.running[process] = (stage, rest, began)

    def stop(self):
        """Let what runs save and end."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process, (stage, *_) in self.running.items():
            process.wait()
            self.note(stage, "stopped; goes on when the queue does")

    def note(self, stage, text):
        """A line in the journal, and on the screen."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {stage.name}: {text}"
        print(line, flush=True)
        with open(self.folder / "journal.txt", "a") as file:
            file.write(line + "\n")


def paper(options):
    """baseline.sh and run.sh at every network, scale and width, one after the other; runs that are there go on."""
    for name in (name for name in PAPER if not options.only or name in options.only):
        model, scale = name.split("_x")
        full = f"{model}_baseline_x{scale}"
        if code := run_script(["baseline.sh", name, *stages.resumed(full)], options.dir_data):
            return code
        stages.keep_full_precision(stages.folder_of(full).best, stages.PRETRAINED / f"{full}.pt")
        for bits in map(str, WIDTHS):
            low = f"output/{model}x{scale}/{bits}bit"
            if code := run_script(["run.sh", name, bits, *stages.resumed(low)], options.dir_data):
                return code
    return 0


def run_script(words, dir_data):
    """Run one of the scripts; returns its exit code."""
    print(f"$ bash {' '.join(words)}", flush=True)
    environment = {**os.environ, "PYTHON": sys.executable, "DIR_DATA": str(dir_data.resolve())}
    return subprocess.run(["bash", *words], cwd=stages.ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(run_main(main))
