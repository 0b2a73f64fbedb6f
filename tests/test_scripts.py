import os
import subprocess
from pathlib import Path

import pytest

from option import parse_options

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = [f"{model}_x{scale}" for model in ("edsr", "rdn", "srresnet") for scale in (2, 4)]
# epochs and patches of the published training: baseline.sh, run.sh
EPOCHS = {"edsr": 300, "rdn": 300, "srresnet": 500}
PATCHES = {"edsr_x2": (96, 96), "edsr_x4": (192, 192), "srresnet_x2": (96, 96), "srresnet_x4": (192, 192),
           "rdn_x2": (64, 64), "rdn_x4": (192, 96)}
RATIOS = {"edsr": 0.3, "srresnet": 0.1, "rdn": 0.5}


def run(script, *arguments, **variables):
    """Run one of the scripts from another folder; in place of python, each argument is printed on a line."""
    return subprocess.run(["bash", ROOT / script, *arguments], capture_output=True, text=True, cwd="/",
                          env=os.environ | {"PYTHON": r"printf %s\n"} | variables)


def options_of(script, *arguments):
    """(program, parsed options) of the one command that a script would run."""
    done = run(script, *arguments)
    assert done.returncode == 0, done.stderr
    program, *flags = done.stdout.splitlines()
    return program, parse_options(flags, quantized=program == "main_limitrange_incremental.py")


@pytest.mark.parametrize("name", NETWORKS)
def test_baseline_trains(name):
    program, options = options_of("baseline.sh", name)
    model, scale = name.split("_x")
    assert program == "main_ori.py"
    assert (options.model, options.scale, options.k_bits) == (model, int(scale), 32)
    assert (options.patch_size, options.epochs, options.decay) == (PATCHES[name][0], EPOCHS[model], 200)
    assert options.save == f"{model}_baseline_x{scale}" and not options.test_only


@pytest.mark.parametrize("script", ["baseline.sh", "run.sh", "test.sh"])
def test_scripts_run_by_sh_and_take_the_callers_data_root(script, tmp_path):
    (tmp_path / "my data").mkdir()
    done = subprocess.run(["sh", ROOT / script, "edsr_x4"], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"PYTHON": r"printf %s\n", "DIR_DATA": "my data"})
    assert done.returncode == 0 and str(tmp_path / "my data") in done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("name", NETWORKS)
def test_baseline_evaluates(name):
    program, options = options_of("baseline.sh", f"{name}_eval")
    model, scale = name.split("_x")
    assert program == "main_ori.py"
    assert (options.model, options.scale, options.test_only) == (model, int(scale), True)
    assert options.data_test == ["Set5", "Set14", "B100", "Urban100"]
    assert options.refine == f"./pretrained/{model}_baseline_x{scale}.pt"


@pytest.mark.parametrize("name", NETWORKS)
def test_run_quantizes(name):
    program, options = options_of("run.sh", name)
    model, scale = name.split("_x")
    assert program == "main_limitrange_incremental.py"
    assert (options.model, options.scale, options.k_bits, options.data_test) == (model, int(scale), 4, ["Set14"])
    assert (options.patch_size, options.dynamic_ratio) == (PATCHES[name][1], RATIOS[model])
    assert options.pre_train == f"./pretrained/{model}_baseline_x{scale}.pt"
    assert options.save == f"output/{model}x{scale}/4bit"


@pytest.mark.parametrize("name", NETWORKS)
def test_test_evaluates_what_run_trained(name):
    program, options = options_of("test.sh", name, "3")
    _, trained = options_of("run.sh", name, "3")
    assert program == "main_limitrange_incremental.py"
    assert options.test_only and options.save_results
    assert options.data_test == ["Set5", "Set14", "B100", "Urban100"]
    assert options.save == f"../experiment/{trained.save}"
    assert (options.model, options.scale, options.k_bits) == (trained.model, trained.scale, 3)


def test_test_takes_what_is_shipped_where_there_is_no_run(tmp_path):
    script = tmp_path / "code" / "test.sh"
    shipped = script.parent / "pretrained" / "edsr_x4_2bit.safetensors"
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    script.write_text((ROOT / "test.sh").read_text())
    told = f"test.sh: no run in ../experiment/output/edsrx4/2bit; testing ./pretrained/{shipped.name}\n"
    assert options_of(script, "edsr_x4", "2")[1].refine == f"./pretrained/{shipped.name}"
    assert run(script, "edsr_x4", "2").stderr == told
    for other in (["3"], ["2", "--refine", "a"], ["2", "--load", "b"], ["2", "--save=c"]):
        assert options_of(script, "edsr_x4", *other)[1].refine != f"./pretrained/{shipped.name}"
    models = tmp_path / "experiment" / "output" / "edsrx4" / "2bit" / "model"
    models.mkdir(parents=True)  # as the test itself leaves it
    assert run(script, "edsr_x4", "2").stderr == told
    (models / "model_best.pth.tar").touch()
    assert options_of(script, "edsr_x4", "2")[1].refine == ""


@pytest.mark.parametrize("script, functions", [("baseline.sh", NETWORKS + [f"{name}_eval" for name in NETWORKS]),
                                               ("run.sh", NETWORKS), ("test.sh", NETWORKS)])
def test_without_arguments_the_functions_are_listed(script, functions):
    done = run(script)
    usage, *listed = done.stdout.splitlines()
    assert done.returncode == 0 and script in usage
    assert sorted(line.strip() for line in listed) == sorted(functions)


@pytest.mark.parametrize("script", ["baseline.sh", "run.sh", "test.sh"])
@pytest.mark.parametrize("name", ["vdsr_x4", "quantize", "edsr_x.", "", "-x"])
def test_an_unknown_function_is_refused(script, name):
    done = run(script, name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script}: no function {name}")


@pytest.mark.parametrize("script, more", [("baseline.sh", []), ("run.sh", ["2"]), ("run.sh", []), ("test.sh", [])])
def test_more_flags_are_passed_on_and_win(script, more):
    _, options = options_of(script, "edsr_x4", *more, "--batch_size", "8", "--dir_data", "/a folder")
    assert (options.batch_size, options.dir_data) == (8, "/a folder")
    assert options.k_bits == (32 if script == "baseline.sh" else int(more[0]) if more else 4)


def test_the_python_and_the_data_can_be_others():
    done = run("run.sh", "rdn_x2", PYTHON="echo torchrun --nproc_per_node 2", DIR_DATA="/data")
    assert done.stdout.startswith("torchrun --nproc_per_node 2 main_limitrange_incremental.py ")
    assert " --dir_data /data " in done.stdout


@pytest.mark.parametrize("script", ["baseline.sh", "run.sh", "test.sh"])
def test_the_python_may_lie_in_a_path_with_a_space(script, tmp_path):
    python = tmp_path / "my environment" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho ran \"$1\"\n")
    python.chmod(0o755)
    done = run(script, "edsr_x4", PYTHON=str(python))
    assert done.returncode == 0 and done.stdout.startswith("ran main_"), done.stderr


def test_a_failing_command_fails_the_script():
    assert run("run.sh", "edsr_x4", PYTHON="false").returncode == 1


@pytest.mark.parametrize("script", ["run.sh", "test.sh"])
@pytest.mark.parametrize("flags", [["--k_bits", "2"], ["4", "--k_bits=2"], ["--batch_size", "8", "--k_bits", "2"]])
def test_bits_that_would_contradict_the_runs_name_are_refused(script, flags):
    done = run(script, "edsr_x4", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"{script}: --k_bits is not read here; give the bits behind the function, as bash {script} "
                           "edsr_x4 2\n")


def test_a_baseline_that_was_trained_here_and_is_not_what_is_tested_is_spoken_of(tmp_path):
    script = tmp_path / "code" / "baseline.sh"
    script.parent.mkdir()
    script.write_text((ROOT / "baseline.sh").read_text())
    models = tmp_path / "experiment" / "edsr_baseline_x4" / "model"
    assert run(script, "rdn_x4_eval").stderr == (
        "baseline.sh: ./pretrained/rdn_baseline_x4.pt is not there; bash baseline.sh rdn_x4 trains one\n")
    (script.parent / "pretrained").mkdir()
    (script.parent / "pretrained" / "edsr_baseline_x4.pt").touch()
    assert run(script, "edsr_x4_eval").stderr == ""
    models.mkdir(parents=True)
    (models / "model_best.pth.tar").touch()
    assert run(script, "edsr_x4_eval").stderr == (
        "baseline.sh: testing what is in pretrained/; for the run in ../experiment/edsr_baseline_x4 give --refine "
        "../experiment/edsr_baseline_x4\n")
    assert run(script, "edsr_x4_eval", "--refine", "../experiment/edsr_baseline_x4").stderr == ""


def test_matlabs_script_finds_the_default_folders_from_anywhere(tmp_path):
    """MATLAB is stood in for by a script that prints what it is asked to do."""
    matlab = tmp_path / "bin" / "matlab"
    matlab.parent.mkdir()
    matlab.write_text('#!/bin/sh\nfor last; do :; done\necho "$last"\n')
    matlab.chmod(0o755)
    path = f"{matlab.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", ROOT / "metrics/run.sh", "Set5", "2", "3"], capture_output=True, text=True,
                          cwd=tmp_path, env=os.environ | {"PATH": path}, check=True)
    folders = f"'{ROOT.parent}/experiment/output/edsrx2/3bit/results-Set5', '{ROOT}/datasets/benchmark/Set5/HR'"
    assert f"calculate_PSNR_SSIM('Set5', 2, 3, {folders});" in done.stdout
