"""All networks of the results table, by one command: trained, quantized, packed, tested. `make networks`.

    python -m examples.networks --photos PHOTOGRAPHS --dir_data datasets [--budget short] [--only edsr_x4]
    python -m examples.networks --again --only edsr_x4_2bit_pams
    python -m examples.networks --list

A stage is one network; those of examples/budgets.py are worked off in order. One that pretrained/models.json lists with
these numbers is finished and left out, if its file is there; of a network that is only compared the listing is enough.
With --again nothing is left out: a finished network is trained anew, its former run is kept in a folder beside it, and
what comes out replaces what is listed.
One that was stopped goes on from its last checkpoint, or after the last image of its test.
What happened is kept in ../experiment/networks/journal.txt. Several of these may run at a time, each with networks of
its own by --only.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from data.images import image_files
from examples import ROOT, environment, run, stages
from examples.budgets import HELD_OUT, RATIOS, SHORT, WIDTHS, full_precision_name
from examples.listing import named_by
from examples.runs import resumed
from option import EXPERIMENT_ROOT
from utility import UserError, first_line, holding_signals, run_main

PAPER = [f"{model}_x{scale}" for model in RATIOS for scale in (2, 4)]


def main(argv=None):
    """Work the stages off. Returns 1 when one fails."""
    options = parse(argv)
    if options.budget == "paper":
        return paper(options.only, options.dir_data)
    chosen = named_by(SHORT, options.only, other="a name that --list prints")
    if options.list:
        print(overview(chosen))
        return 0
    if options.photos and (code := prepare(options.photos, options.dir_data)):
        return code
    data = stages.DataFlags(options.dir_data)
    if left := [stage for stage in chosen if options.again or not stages.finished(stage)]:
        data.check_apart({stage.scale for stage in left})
    return work(chosen, lambda stage: stages.commands(stage, data, options.device, again=options.again),
                again=options.again)


def parse(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--budget", choices=("short", "paper"), default="short",
                        help="short: examples/budgets.py; paper: baseline.sh and run.sh, on DIV2K (default: short)")
    parser.add_argument("--photos", type=Path, help="folder of folders of photographs to make the training set of")
    parser.add_argument("--dir_data", type=Path, default=Path("datasets"), help="data root (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NETWORK",
                        help="these alone, as edsr_x4_2bit, or edsr_x4 for all that is made of it")
    parser.add_argument("--again", action="store_true", help="also what is finished")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="what trains (default: cpu)")
    parser.add_argument("--list", action="store_true", help="print what is done, what is not, and how long it takes")
    options = parser.parse_args(argv)
    if options.budget == "paper":
        if unused := [name for name in ("photos", "again", "device", "list")
                      if getattr(options, name) != parser.get_default(name)]:
            raise UserError(f"--{unused[0]}: is for --budget short; paper's networks are trained on DIV2K, by the "
                            "scripts, which continue what is there")
        if unknown := set(options.only) - set(PAPER):
            raise UserError(f"--only {min(unknown)}: choose {', '.join(PAPER)}")
    return options


def prepare(photos, dir_data):
    """DIV2K's layout from folders of photographs; those of HELD_OUT come last. Checked and completed if it is there.

    Returns data.prepare's exit code. Raises UserError for no such folders, and where it is of other photographs:
    numbers would mean others than before.
    """
    source = dir_data / "photographs"
    folders = sorted(path for path in photos.iterdir() if path.is_dir()) if photos.is_dir() else []
    if not folders:
        raise UserError(f"--photos {photos}: holds no folders of photographs; give the folder that they are in")
    train, held = [], []
    for folder in folders:
        files = image_files(folder)
        kept = HELD_OUT.get(folder.name, 0)
        if len(files) <= kept:
            raise UserError(f"--photos {folder}: {kept} of its images are kept from training, it has {len(files)}; "
                            "give the whole folder, or change HELD_OUT in examples/budgets.py")
        train += files[: len(files) - kept]
        held += files[len(files) - kept:]
    source.mkdir(parents=True, exist_ok=True)
    links = {f"{number:04d}{path.suffix}": path.resolve() for number, path in enumerate(train + held, 1)}
    for link in source.iterdir():
        known = link.is_symlink() and link.name in links
        if not known or Path(os.readlink(link)).parts[-2:] != links[link.name].parts[-2:]:
            raise UserError(f"{link}: is of other photographs than --photos {photos}; give --dir_data another folder")
    for name, path in links.items():
        (source / name).unlink(missing_ok=True)  # where they have moved as a whole
        (source / name).symlink_to(path)
    return run(["data.prepare", "--hr", source, "--out", dir_data / "DIV2K", "--scales", 2, 4])


def overview(chosen):
    """A line a stage: done, how far, or how long it would take on one core."""
    lines, total = [], 0.0
    for stage in chosen:
        hours = stages.made_here(stage).duration / 3600
        done = stages.finished(stage)
        total += 0 if done else hours
        lines.append(f"{stage.name:32}{'done' if done else 'open':8}{hours:6.1f} h")
    return "\n".join([*lines, f"{'left, on one core':40}{total:6.1f} h"])


def work(chosen, commands_of, *, again=False):
    """Run the commands of each stage that is not finished, or with `again` of each. Returns 1 when one failed, else 0.

    A failure ends the work, except that of a compared network, from which nothing starts. If its training diverges,
    that is listed as its result.
    """
    (EXPERIMENT_ROOT / stages.RUNS).mkdir(parents=True, exist_ok=True)
    failed = 0
    for stage in (stage for stage in chosen if again or not stages.finished(stage)):
        note(stage, f"begun, about {stages.made_here(stage).duration / 3600:.1f} h on one core")
        began = time.time()
        problem = first_problem(stage, commands_of)
        if not problem:
            note(stage, f"finished after {(time.time() - began) / 3600:.2f} h")
        elif stage.for_comparison and (epoch := diverged_in(stage)):
            note(stage, f"diverges in epoch {epoch}, and is listed so; see {log_file(stage)}")
            stages.publish_divergence(stage, epoch)
        else:
            note(stage, f"failed ({problem}); see {log_file(stage)}")
            failed = 1
            if not stage.for_comparison:
                break
    return failed


def first_problem(stage, commands_of):
    """Run the commands of a stage; returns what ended it, in words, "" where all of it is done."""
    try:
        for command in commands_of(stage):
            if code := run_logged(stage, command):
                return last_error(stage) or f"exit code {code}"
    except (UserError, OSError) as error:
        with contextlib.suppress(OSError), open(log_file(stage), "a") as file:
            print(f"$ {stage.name}\nerror: {error}", file=file)
        return str(error)
    return ""


def run_logged(stage, command):
    """Run a command of a stage, its output in the stage's log; returns its exit code. A signal lets it save and end.

    What it warns of is noted, too.
    """
    # one thread, unless OMP_NUM_THREADS says otherwise
    variables = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **os.environ}
    with open(log_file(stage), "a") as file:
        print(f"$ {' '.join(command)}", file=file, flush=True)
        begin = file.tell()
        running = None
        try:
            with holding_signals():  # one that came within Popen would leave the child running
                running = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT,
                                           env={**variables, **environment()},
                                           start_new_session=True)  # so that Ctrl-C reaches it once
            return running.wait()
        except BaseException:
            if running:
                running.terminate()
                running.wait()
                note(stage, "stopped; the same command goes on")
            raise
        finally:
            for line in dict.fromkeys(log_file(stage).read_bytes()[begin:].decode(errors="replace").splitlines()):
                if line.startswith("warning: "):
                    note(stage, line)


def log_file(stage):
    """What the commands of a stage print."""
    return EXPERIMENT_ROOT / stages.RUNS / f"{stage.name}.log"


def diverged_in(stage):
    """The epoch in which the stage's last command met values that are not finite, as its log tells; None for others."""
    found = re.search(r" is not finite in epoch ([0-9]+)", last_error(stage))
    return int(found[1]) if found else None


def last_error(stage):
    """The error that the stage's last command ended with, its log's last line; "" where that is another."""
    with contextlib.suppress(OSError):
        *_, last = log_file(stage).read_text(errors="replace").rstrip().splitlines() or [""]
        return last.removeprefix("error: ") if last.startswith("error: ") else ""
    return ""


def note(stage, text):
    """A line in the journal, and on the screen."""
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {stage.name}: {text}"
    print(line, flush=True)
    with contextlib.suppress(OSError), open(EXPERIMENT_ROOT / stages.RUNS / "journal.txt", "a") as file:
        file.write(line + "\n")


def paper(only, dir_data):
    """baseline.sh and run.sh at every network, scale and width, one after the other; runs that are there go on."""
    for name in (name for name in PAPER if not only or name in only):
        model, scale = name.split("_x")
        full = full_precision_name(name)
        if code := run_script(["baseline.sh", name, *resumed(full)], dir_data):
            return code
        for bits in map(str, WIDTHS):
            low = f"output/{model}x{scale}/{bits}bit"
            begin = resumed(low) or ["--pre_train", str(EXPERIMENT_ROOT / full)]
            if code := run_script(["run.sh", name, bits, *begin], dir_data):
                return code
    return 0


def run_script(words, dir_data):
    """Run one of the scripts; returns its exit code."""
    print(f"$ bash {' '.join(words)}", flush=True)
    variables = {**os.environ, "PYTHON": sys.executable, "DIR_DATA": str(dir_data.resolve())}
    return subprocess.run(["bash", *words], cwd=ROOT, env=variables).returncode


if __name__ == "__main__":
    sys.exit(run_main(main))
