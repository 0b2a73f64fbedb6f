import shlex
from pathlib import Path

import pytest

from model import NETWORKS
from option import build_parser, config_text, experiment_folder, means_pre_train, options_to_keep, parse_options
from quant import QuantConfig, quantize
from quant.distill import parameter_groups
from quant.methods import METHODS
from utility import UserError

EDSR_PYTORCH_FLAGS = """
--debug --template . --n_threads 6 --cpu --n_GPUs 1 --seed 1 --dir_data d --dir_demo ../test --data_train DIV2K
--data_test DIV2K --data_range 1-800/801-810 --ext sep --scale 4 --patch_size 192 --rgb_range 255 --n_colors 3 --chop
--no_augment --model EDSR --act relu --pre_train p --extend . --n_resblocks 16 --n_feats 64 --res_scale 1
--shift_mean True --dilation --precision single --G0 64 --RDNkSize 3 --RDNconfig B --n_resgroups 10 --reduction 16
--reset --test_every 1000 --epochs 300 --batch_size 16 --split_batch 1 --self_ensemble --test_only --gan_k 1 --lr 1e-4
--decay 200 --gamma 0.5 --optimizer ADAM --momentum 0.9 --betas (0.9,0.999) --epsilon 1e-8 --weight_decay 0 --gclip 0
--loss 1*L1 --skip_threshold 1e8 --save test --load l --resume 0 --save_models --print_every 100 --save_results
--save_gt
""".split()

DEFAULTS = {
    "n_threads": 6, "cpu": False, "gpu_id": 0, "n_GPUs": 1, "seed": 1, "dir_data": "dataset/sr_data",
    "dir_demo": "../test", "data_train": ["DIV2K"], "data_test": ["Set5"], "data_range": "1-800/801-810", "ext": "sep",
    "scale": 4, "patch_size": 192, "rgb_range": 255, "n_colors": 3, "no_augment": False, "model": "edsr",
    "pre_train": "", "refine": "", "n_resblocks": 16, "n_feats": 64, "res_scale": 1, "precision": "single",
    "k_bits": 32, "dynamic_ratio": 0.1, "init_bounds": "percentile", "G0": 64, "RDNkSize": 3, "RDNconfig": "B",
    "reset": False, "test_every": 1000, "epochs": 60, "batch_size": 16, "test_only": False, "lr": 1e-4, "w_l1": 1,
    "w_at": 1000, "decay": 10, "gamma": 0.5, "optimizer": "ADAM", "betas": (0.9, 0.999), "epsilon": 1e-8, "gclip": 0,
    "loss": "1*L1", "save": "test", "load": "", "resume": "", "save_models": False, "print_every": 100,
    "checkpoint_every": 0, "save_results": False, "save_gt": False, "chop": False, "self_ensemble": False,
}

README_COMMANDS = [
    (False, "--model edsr --scale 4 --save edsr_baseline_x4 --patch_size 192 --epochs 300 --decay 200 --gclip 0 "
            "--dir_data ./datasets"),
    (True, "--scale 4 --k_bits 4 --model EDSR --pre_train ./pretrained/edsr_baseline_x4.pt --patch_size 192 "
           "--data_test Set14 --dynamic_ratio 0.3 --save 'output/edsrx4/4bit' --dir_data ./datasets --print_every 10"),
    (True, "--scale 4 --model EDSR --k_bits 4 --save_results --test_only --data_test Set5+Set14+B100+Urban100 "
           "--save '../experiment/output/edsrx4/4bit' --dir_data ./datasets"),
]


def parse(text="", *, quantized=True):
    return parse_options(shlex.split(text), quantized=quantized)


@pytest.mark.parametrize("quantized", [False, True])
def test_defaults_are_those_of_the_release(quantized):
    options = vars(parse(quantized=quantized))
    assert {name: options[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("quantized", [False, True])
def test_every_flag_of_edsr_pytorch_parses(quantized):
    assert len(EDSR_PYTORCH_FLAGS) > 100
    parse_options(EDSR_PYTORCH_FLAGS, quantized=quantized)


@pytest.mark.parametrize("quantized, command", README_COMMANDS)
def test_commands_of_the_readme_parse(quantized, command):
    assert parse(command, quantized=quantized).dir_data == "./datasets"


def test_the_readme_tests_the_run_that_it_trained():
    trained, tested = (parse(command).save for _, command in README_COMMANDS[1:])
    assert experiment_folder(trained) == experiment_folder(tested)


@pytest.mark.parametrize("given, model", [("EDSR", "edsr"), ("Rdn", "rdn"), ("SRResNet", "srresnet"),
                                          ("BNSRResNet", "srresnet")])
def test_names_of_models_in_any_case(given, model):
    assert parse(f"--model {given}").model == model


def test_sets_are_split_at_plus():
    options = parse("--data_test Set5+Set14+B100 --data_train DIV2K+BSD400")
    assert options.data_test == ["Set5", "Set14", "B100"]
    assert options.data_train == ["DIV2K", "BSD400"]


@pytest.mark.parametrize("given, decay", [("200", 200), ("200-400", [200, 400]), ("1-2-3", [1, 2, 3])])
def test_decay_is_a_period_or_a_list_of_epochs(given, decay):
    assert parse(f"--decay {given}").decay == decay


@pytest.mark.parametrize("given, load, resume", [
    ("--save a --resume", "a", ""),
    ("--save a --resume -1", "a", ""),
    ("--save a --load b --resume", "b", ""),
    ("--save a --resume 0", "", ""),
    ("--save a --resume file.pth.tar", "", "file.pth.tar"),
    ("--save a --resume folder", "", "folder/model/checkpoint.pth.tar"),
    ("--load b", "b", ""),
])
def test_ways_to_resume(tmp_path, monkeypatch, given, load, resume):
    (tmp_path / "folder" / "model").mkdir(parents=True)
    for name in ("file.pth.tar", "folder/model/checkpoint.pth.tar"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    options = parse(given)
    assert (options.load, options.resume) == (load, resume)


@pytest.mark.parametrize("given", ["nowhere.pt", "-2", "1.5", "\N{SUPERSCRIPT TWO}"])
def test_what_resume_cannot_find_is_told_first(given):
    with pytest.raises(UserError, match=f"--resume {given}: no such file"):
        parse(f"--load a --resume {given}")


def test_save_beside_load_is_told():
    assert "--save a has no effect" in "".join(parse("--load b --save a").notes)
    assert "--save" not in "".join(parse("--load b --save ../experiment/b").notes)


def test_a_whole_rgb_range_stays_whole():
    assert repr(parse("--rgb_range 1").rgb_range) == "1"
    assert parse("--rgb_range 0.5").rgb_range == 0.5


def test_the_templates_of_edsr_pytorch():
    options = parse("--template EDSR_paper")
    assert (options.model, options.n_resblocks, options.n_feats, options.res_scale) == ("edsr", 32, 256, 0.1)
    options = parse("--template EDSR_paper --n_feats 64")  # what is given wins, a default too
    assert (options.model, options.n_resblocks, options.n_feats, options.res_scale) == ("edsr", 32, 64, 0.1)
    options = parse("--template GAN --epochs 20")
    assert (options.lr, options.decay, options.epochs) == (5e-5, 150, 20)


@pytest.mark.parametrize("flags", ["--act prelu", "--dilation", "--shift_mean False", "--nesterov True", "--kl",
                                   "--suffix x", "--ema_epoch 5", "--pix_type l2", "--conv_idx 54", "--debug",
                                   "--threshld_ratio 0.5", "--n_resgroups 20"])
def test_flags_without_effect_are_said_to_have_none(flags):
    assert parse(f"{flags} --k_bits 4").notes == [f"warning: {flags} has no effect here"]


def test_one_value_a_channel_is_too_few_for_batch_norms():
    flags = "--model srresnet --patch_size 4 --batch_size"
    with pytest.raises(UserError, match="--patch_size 4: is one LR pixel, too few for batch norms"):
        parse(f"{flags} 1")
    parse(f"{flags} 2")


def test_losses_that_are_all_zero_are_refused():
    with pytest.raises(UserError, match="--w_l1 0.0: with --w_at 0 nothing is learnt"):
        parse("--k_bits 4 --w_l1 0 --w_at 0")
    parse("--k_bits 4 --w_l1 0")
    parse("--test_only --k_bits 4 --w_l1 0 --w_at 0")


def test_to_decode_images_anew_is_of_one_call():
    assert options_to_keep(parse("--ext sep_reset"))["ext"] == "sep"
    assert options_to_keep(parse("--ext img"))["ext"] == "img"


@pytest.mark.parametrize("flags, idle", [
    ("--k_bits 4 --loss 1*MSE", "--loss 1*MSE"), ("--k_bits 4 --G0 32", "--G0 32"),
    ("--k_bits 4 --model RDN --n_resblocks 8", "--n_resblocks 8"), ("--k_bits 4 --momentum 0.5", "--momentum 0.5"),
    ("--k_bits 4 --quantizer pams --dynamic_ratio 0.5", "--dynamic_ratio 0.5"),
    ("--k_bits 4 --quantizer dorefa --bound_lr 0.1", "--bound_lr 0.1"),
    ("--k_bits 4 --quantizer minmax --bound_lr 0.1", "--bound_lr 0.1"),
    ("--k_bits 4 --optimizer SGD --betas 0.5,0.9", "--betas 0.5,0.9"), ("--k_bits 4 --save_gt", "--save_gt"),
    ("--k_bits 32 --w_at 3", "--w_at 3.0"), ("--k_bits 32 --init_bounds calibrated", "--init_bounds calibrated"),
    ("--k_bits 32 --first_stage_epoch 3", "--first_stage_epoch 3"), ("--test_only --reset", "--reset"),
    ("--k_bits 32 --refine a.pt --pre_train b.pt", "--pre_train b.pt"),
    ("--k_bits 4 --model RDN --template EDSR_paper", "--n_feats 256"), ("--test_only --save_gt", "--save_gt"),
    ("--test_only --chop_size 64", "--chop_size 64"), ("--k_bits 4 --chop_size 64", "--chop_size 64"),
    ("--test_only --backend onnx --refine a.onnx --precision half", "--precision half"),
    ("--test_only --load a --pre_train b.pt", "--pre_train b.pt"), ("--test_only --compile", "--compile"),
    ("--k_bits 32 --gan_k 3", "--gan_k 3"), ("--k_bits 32 --loss 1*GAN --vgg_weights a.pt", "--vgg_weights a.pt"),
    ("--test_only --k_bits 4 --pre_train b.pt", "--pre_train b.pt"),
    ("--test_only --refine a.pt --init interpolation", "--init interpolation"),
    ("--test_only --load a --init interpolation", "--init interpolation"),
    ("--k_bits 4 --dynamic_ratio 1 --dynamic_choice random", "--dynamic_choice random"),
])
def test_what_this_training_has_no_use_for_is_told(flags, idle):
    assert f"warning: {idle} has no effect here" in parse(flags).notes


@pytest.mark.parametrize("flags", ["", "--test_only", "--k_bits 4"])
def test_values_are_checked_before_anything_is_computed_with_them(flags):
    with pytest.raises(UserError, match="--scale 0: "):
        parse(f"{flags} --scale 0")


def test_a_patch_is_of_no_concern_to_a_test():
    assert parse("--test_only --patch_size 3 --scale 4").patch_size == 3
    with pytest.raises(UserError, match="--patch_size 3: is less than one LR pixel at --scale 4"):
        parse("--patch_size 3 --scale 4")


@pytest.mark.parametrize("quantizer", METHODS)
def test_bounds_are_trained_where_their_rate_counts(quantizer):
    network = quantize(NETWORKS["edsr"](n_resblocks=1, n_feats=4, scale=2), QuantConfig(4, quantizer))
    _, bounds = parameter_groups(network)
    assert bool(bounds["params"]) == METHODS[quantizer].activation.trained
    assert parse(f"--k_bits 4 --quantizer {quantizer} --bound_lr 0.1").notes == (
        [] if bounds["params"] else ["warning: --bound_lr 0.1 has no effect here"])


def test_their_defaults_need_no_word():
    flags = "--act relu --shift_mean True --nesterov false --skip_threshold 1e8 --split_batch 1"
    assert parse(f"--k_bits 4 {flags}").notes == []
    assert parse("--k_bits 4 --loss 1*L1 --G0 64 --optimizer SGD --momentum 0.5").notes == []


def test_momentum_is_sgds_alone():
    assert parse("--optimizer RMSprop --momentum 0.5", quantized=False).notes == [
        "warning: --momentum 0.5 has no effect here"]


def test_what_is_less_than_it_looks_is_told():
    assert parse("--scale 4 --patch_size 50", quantized=False).notes == [
        "--patch_size 50: 48 is used, a multiple of --scale"]
    assert parse("--scale 4 --patch_size 50 --test_only", quantized=False).notes == []
    assert parse("--init interpolation --pre_train x.pt", quantized=False).notes == [
        "--init interpolation: only for what --pre_train lacks, the upsampler of another scale"]
    assert "--resume 0 has no effect: --load continues" in parse("--load x --resume 0").notes


@pytest.mark.parametrize("flags", ["--k_bit 2", "--refin x", "--data_ra 1-2"])
def test_flags_are_not_abbreviated(flags):
    with pytest.raises(UserError, match="unrecognized arguments: --"):
        parse(flags)


def test_a_set_is_tested_once():
    with pytest.raises(UserError, match=r"--data_test Set5\+Set5: names a set twice"):
        parse("--data_test Set5+Set5")


def test_a_run_that_is_named_is_what_is_tested_unless_full_precision_is_asked_for():
    assert means_pre_train(parse("--test_only --pre_train x.pt", quantized=True))
    assert means_pre_train(parse("--test_only --pre_train x.pt --save run", quantized=False))
    assert means_pre_train(parse("--test_only --pre_train x.pt --save run --k_bits 32", quantized=True))
    for flags in ("--save run", "--load run", "--save run --k_bits 4", "--k_bits 4"):
        options = parse(f"--test_only --pre_train x.pt {flags}", quantized=True)
        assert not means_pre_train(options)
        assert "warning: --pre_train x.pt has no effect here" in options.notes


def test_too_few_epochs_for_a_best_network_are_told():
    told = "warning: no best network is counted before epoch 6 (--first_stage_epoch), and --epochs is 5"
    assert parse("--k_bits 4 --epochs 5").notes == [told]
    for enough in ("--k_bits 4 --epochs 6", "--k_bits 4 --epochs 2 --first_stage_epoch 2", "--k_bits 32 --epochs 2",
                   "--k_bits 4 --epochs 5 --refine x"):
        assert told not in parse(enough).notes


def test_bits_that_were_forgotten_are_spoken_of():
    assert parse("--test_only --refine x --skip_bits 8").skip_bits == 8  # the file says its bits
    assert parse("--model EDSR").notes == ["no --k_bits: full precision is what runs; give --k_bits 2 to 8 to quantize"]
    assert parse("--k_bits 32").notes == parse("--model EDSR", quantized=False).notes == []


@pytest.mark.parametrize("flags", [
    "--skip_bits 9", "--skip_bits 8",
    "--scale 5", "--scale 2+3", "--scale x2", "--k_bits 1", "--k_bits 9", "--k_bits 16", "--model VDSR",
    "--patch_size 0", "--patch_size 3", "--batch_size 0", "--epochs 0", "--test_every 0", "--print_every 0",
    "--n_threads -1", "--checkpoint_every -1", "--gpu_id -1", "--n_GPUs 0", "--n_resblocks 0", "--n_feats 0", "--G0 0",
    "--gan_k 0", "--chop_size 0", "--seed -1", f"--seed {2**63}", "--dynamic_ratio 1.1", "--dynamic_ratio -0.1",
    "--dynamic_ratio nan", "--lr 0", "--lr -1", "--lr nan", "--lr inf", "--gamma 0", "--epsilon 0", "--res_scale nan",
    "--rgb_range 0", "--rgb_range inf", "--gclip -1", "--gclip nan", "--w_l1 -1", "--w_at inf", "--momentum -1",
    "--weight_decay nan", "--betas 0.9,1", "--betas nan,0.9", "--RDNkSize 2", "--n_colors 4", "--data_range 1-",
    "--data_range 9-1", "--data_range 0-5", "--data_range 1-800/801-810/1-2", "--data_test +", "--data_train +",
    "--decay 0", "--decay x", "--decay 400-200", "--loss 1*L3", "--template RCAN", "--save ''", "--save ../../x",
    "--load /elsewhere",
])
def test_a_wrong_value_is_told_in_one_line_that_names_the_flag(flags):
    flag, value = shlex.split(flags)
    with pytest.raises(UserError) as told:
        parse(flags)
    assert str(told.value).startswith(f"{flag} ")
    assert "\n" not in str(told.value) and len(str(told.value)) > len(f"{flag} {value}: ")


def test_a_network_without_quantized_sums_refuses_their_bits():
    assert parse("--k_bits 2 --skip_bits 8 --model RDN").skip_bits == 8
    with pytest.raises(UserError, match="--skip_bits 8: SRResNet's skips are not quantized"):
        parse("--k_bits 2 --skip_bits 8 --model SRResNet")


def test_only_the_quantizing_program_takes_bits():
    assert parse("--k_bits 4").k_bits == 4
    assert parse("--k_bits 32", quantized=False).k_bits == 32
    with pytest.raises(UserError, match="--k_bits 4: .*main_limitrange_incremental.py"):
        parse("--k_bits 4", quantized=False)


@pytest.mark.parametrize("flags", ["--no_such_flag", "--lr fast", "--rgb_range x", "--betas 1", "--ext bin",
                                   "--optimizer LION"])
def test_what_does_not_parse_is_told_in_one_line_too(flags):
    with pytest.raises(UserError, match=flags.split()[0]) as told:
        parse(flags)
    assert "\n" not in str(told.value)


def test_testing_needs_neither_weights_nor_training_sets():
    assert parse("--test_only --data_train +").data_train == []


def test_help_is_grouped_and_explains_every_flag():
    for quantized in (False, True):
        parser = build_parser(quantized=quantized)
        titles = [group.title for group in parser._action_groups if group._group_actions]
        assert titles[1:] == ["Hardware", "Data", "Model", "Quantization", "Training", "Optimization", "Loss", "Log"]
        assert all(action.help for action in parser._actions)
        assert "(default: 0)" in parser.format_help()


@pytest.mark.parametrize("name", ["output/x", "../experiment/output/x", "./output//x", "output/y/../x",
                                  "./../experiment/output/x"])
def test_names_of_one_run(name):
    assert experiment_folder(name) == Path("../experiment/output/x")


def test_an_absolute_path_within_the_root(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert experiment_folder(str(tmp_path / "experiment" / "x")) == Path("../experiment/x")


@pytest.mark.parametrize("name", ["", ".", "..", "../experiment", "../../x", "../x", "x/../../y", "/tmp/x",
                                  "../experiment/../x"])
def test_runs_stay_within_the_root(name):
    with pytest.raises(UserError, match="^--load .*../experiment"):
        experiment_folder(name, flag="load")


def test_config_text_is_sorted_lines():
    lines = config_text(parse("--save b --data_test Set5+Set14")).splitlines()
    assert lines == sorted(lines, key=lambda line: line.partition(":")[0])
    assert "save: b" in lines and "data_test: ['Set5', 'Set14']" in lines
