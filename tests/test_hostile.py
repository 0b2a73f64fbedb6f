"""What people and machines do to a program: each case with its exit code and its one line of explanation."""

import re
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import read_image, write_png
from model.torch_file import read_torch_file
from utility import run_main


@dataclass
class World:
    """What a case may spoil: a copy of the tiny data, and finished runs `full` and `low` (4 bits)."""

    data: Path
    experiments: Path

    def __post_init__(self):
        self.train_hr = self.data / "DIV2K" / "DIV2K_train_HR"
        self.train_lr = self.data / "DIV2K" / "DIV2K_train_LR_bicubic" / "X2"
        self.test_hr = self.data / "benchmark" / "Tiny" / "HR"
        self.test_lr = self.data / "benchmark" / "Tiny" / "LR_bicubic" / "X2"
        self.demo = self.data / "demo"

    def checkpoint(self, run="full"):
        return self.experiments / run / "model" / "checkpoint.pth.tar"

    def changed(self, run, **parts):
        """A checkpoint of `run` in which some parts are others. Returns its path."""
        return self.saved(read_torch_file(self.checkpoint(run)) | parts)

    def saved(self, content):
        torch.save(content, self.data / "spoilt.pt")
        return self.data / "spoilt.pt"

    def demo_image(self, name, image, **settings):
        """An image in the Demo folder. Returns the flags that test it."""
        self.demo.mkdir(exist_ok=True)
        image.save(self.demo / name, **settings)
        return f"--test_only --save_results --load full --data_test Demo --dir_demo {self.demo}"


CASES = {}


def case(message, *, code=2, quantized=False):
    """Add a case: the decorated function spoils a World and returns flags; `message` is searched for on stderr."""

    def add(arrange):
        CASES[arrange.__name__] = (arrange, message, code, quantized)
        return arrange

    return add


def well(quantized=False):
    """Add a case that has to end well."""
    return case("", code=0, quantized=quantized)


class Bomb:
    """Runs code when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# images -------------------------------------------------------------------------------------------------------------

@case(r"0003x2\.png: not a readable image")
def truncated_png_to_train_with(world):
    cut(world.train_lr / "0003x2.png")
    return "--test_every 9"


@case(r"0003\.png: not a readable image")
def truncated_png_in_a_worker_process(world):
    cut(world.train_hr / "0003.png")
    return "--test_every 9 --n_threads 2"


@case(r"0003\.png: not a readable image")
def truncated_png_to_decode_into_the_cache(world):
    cut(world.train_hr / "0003.png")
    return "--ext sep"


@case(r"two\.png: not a readable image")
def truncated_png_to_test_with(world):
    cut(world.test_hr / "two.png")
    return ""


@case(r"0003\.png: not a readable image .broken PNG")
def png_with_a_changed_byte(world):
    content = bytearray((world.train_hr / "0003.png").read_bytes())
    content[len(content) // 2] ^= 1
    (world.train_hr / "0003.png").write_bytes(content)
    return "--test_every 9"


@case(r"0002\.png: the file is empty")
def zero_byte_png(world):
    (world.train_hr / "0002.png").write_bytes(b"")
    return ""


@case(r"0002\.png: not an image of a kind this program can read")
def text_with_the_name_of_an_image(world):
    (world.train_hr / "0002.png").write_text("see the other folder")
    return ""


@case(r"0002\.png: not a readable image")
def decompression_bomb(world):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (world.train_hr / "0002.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    return ""


@well()
def image_of_16_bits(world):
    deep = np.random.default_rng(0).integers(0, 2**16, (12, 10), dtype=np.uint16)
    return world.demo_image("deep.png", Image.fromarray(deep))


@well()
def cmyk_image(world):
    return world.demo_image("press.jpg", Image.new("CMYK", (10, 12), (10, 20, 30, 40)))


@well()
def palette_image_with_a_transparent_entry(world):
    image = Image.new("P", (10, 12))
    image.putpalette([0, 0, 0, 200, 100, 50])
    return world.demo_image("few.png", image, transparency=1)


@well()
def alpha_image(world):
    return world.demo_image("glass.png", Image.new("RGBA", (10, 12), (1, 2, 3, 4)))


@well()
def image_of_one_bit(world):
    return world.demo_image("fax.png", Image.new("1", (10, 12), 1))


@well()
def image_of_one_pixel(world):
    return world.demo_image("dot.png", Image.new("RGB", (1, 1)))


@well()
def all_black_batches(world):
    for path in [*world.train_hr.iterdir(), *world.train_lr.iterdir()]:
        write_png(path, np.zeros_like(read_image(path)))
    return "--epochs 7 --save black"


@well(quantized=True)
def all_black_batches_quantized(world):
    return all_black_batches(world)


# data sets ----------------------------------------------------------------------------------------------------------

@case(r"--patch_size 64: larger than .*000\d\.png \(32x40\)")
def image_smaller_than_the_patch(world):
    return "--patch_size 64"


@case(r"0002x2\.png: 16x20 does not fit .*0002\.png \(48x60\) at --scale 2")
def lr_of_another_scale(world):
    path = world.train_hr / "0002.png"
    write_png(path, read_image(path).repeat(3, 0).repeat(3, 1)[:60, :48])
    return ""


@case(r"--scale 4: no folder .*X4")
def scale_without_lr_images(world):
    return "--scale 4"


@case(r"DIV2K_train_HR: no images in it")
def empty_folder(world):
    shutil.rmtree(world.train_hr)
    world.train_hr.mkdir()
    return ""


@case(r"DIV2K_train_HR: cannot be read as a folder of images|no DIV2K|expected .*DIV2K_train_HR")
def folder_that_cannot_be_read(world):
    shutil.rmtree(world.train_hr)
    world.train_hr.symlink_to(world.train_hr)
    return ""


@case(r"X2: no 0004x2\.png for .*0004\.png")
def lr_image_missing(world):
    (world.train_lr / "0004x2.png").unlink()
    return ""


@case(r"would both be called 'one'")
def two_images_of_one_name(world):
    shutil.copy(world.test_hr / "one.png", world.test_hr / "one.jpg")
    return ""


@case(r"--data_test Nowhere: .*has DIV2K, benchmark/Tiny")
def unknown_test_set(world):
    return "--data_test Nowhere"


@case(r"--data_test '\.\./Tiny': expected names of data sets")
def set_name_that_is_a_path(world):
    return "--data_test ../Tiny"


@case(r"--data_range 7-9: .*has images 1-6")
def range_beyond_the_images(world):
    return "--data_range 7-9/1-1"


@case(r"--dir_demo .*/nowhere: no such folder")
def demo_folder_missing(world):
    return f"--test_only --load full --data_test Demo --dir_demo {world.data / 'nowhere'}"


@well()
def files_that_are_no_images(world):
    (world.train_hr / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (world.train_hr / "read me.txt").write_text("hello")
    (world.train_hr / "more.png").mkdir()
    return "--save other"


@well()
def names_that_would_lead_elsewhere(world):
    for name in ("a..\\..\\evil.png", "line\nbreak.png", "-rf *.png", "%s{0}.png"):
        flags = world.demo_image(name, Image.new("RGB", (10, 12)))
    return flags


@case(r"File name too long")
def name_as_long_as_the_system_allows(world):
    return world.demo_image("x" * 251 + ".png", Image.new("RGB", (10, 12)))


# checkpoints --------------------------------------------------------------------------------------------------------

@case(r"spoilt\.pt: holds Python objects .* not loaded for safety")
def pickle_bomb_to_start_from(world):
    return f"--pre_train {world.saved({'state_dict': Bomb(world.data / 'exploded')})} --save other"


@case(r"checkpoint\.pth\.tar: holds Python objects .* not loaded for safety")
def pickle_bomb_in_a_run(world):
    shutil.copy(world.saved(Bomb(world.data / "exploded")), world.checkpoint())
    return "--load full"


@case(r"spoilt\.pt: holds Python objects .* not loaded for safety", quantized=True)
def pickle_bomb_to_test(world):
    return f"--test_only --refine {world.saved([Bomb(world.data / 'exploded')])}"


@case(r"checkpoint\.pth\.tar: is not a checkpoint that torch can read, or is damaged or cut short")
def truncated_checkpoint(world):
    cut(world.checkpoint())
    return "--load full"


@case(r"model_best\.pth\.tar: is not a checkpoint that torch can read, or is damaged or cut short")
def empty_checkpoint(world):
    (world.experiments / "full" / "model" / "model_best.pth.tar").write_bytes(b"")
    return "--load full --test_only"


@case(r"spoilt\.pt: is not a checkpoint that torch can read")
def image_for_a_checkpoint(world):
    shutil.copy(world.test_hr / "one.png", world.data / "spoilt.pt")
    return f"--resume {world.data / 'spoilt.pt'}"


@case(r"spoilt\.pt: is not a checkpoint that torch can read")
def checkpoint_with_flipped_bits(world):
    content = bytearray(world.checkpoint().read_bytes())
    content[len(content) // 2] ^= 0xFF
    (world.data / "spoilt.pt").write_bytes(content)
    return f"--resume {world.data / 'spoilt.pt'}"


@case(r"--dir_demo \S*one\.png: cannot be read as a folder of images: Not a directory")
def file_for_the_demo_folder(world):
    return f"--test_only --load full --data_test Demo --dir_demo {world.test_hr / 'one.png'}"


@case(r"0003\.png: no such file")
def link_that_leads_nowhere_among_images(world):
    (world.train_hr / "0003.png").unlink()
    (world.train_hr / "0003.png").symlink_to("nowhere.png")
    return ""


@case(r"--pre_train \S*one\.png/x: cannot be read \(Not a directory\); `bash baseline\.sh edsr_x2`", quantized=True)
def weights_below_a_file(world):
    return f"--pre_train {world.test_hr / 'one.png'}/x --save other"


@case(r"nowhere\\n\.pt: no such file")
def name_with_a_line_break(world):
    return f"--pre_train '{world.data}/nowhere\n.pt' --save other"


@case(r"nowhere\.pt: no such file")
def checkpoint_that_is_not_there(world):
    return f"--resume {world.data / 'nowhere.pt'}"


@case(r"no model/model_best\.pth\.tar or model/checkpoint\.pth\.tar in it")
def run_without_a_checkpoint_to_test(world):
    return "--test_only --load nowhere"


@case(r"was trained for --model edsr \(asked for: srresnet\)")
def checkpoint_of_another_model(world):
    return f"--model SRResNet --pre_train {world.checkpoint()} --save other"


@case(r"was trained for --n_feats 8 \(asked for: 16\)")
def checkpoint_of_another_size(world):
    return "--n_feats 16 --load full --test_only"


@case(r"was trained with --scale 2; give that instead of 3")
def checkpoint_of_another_scale(world):
    for folder in (world.train_lr, world.test_lr):
        shutil.copytree(folder, folder.with_name("X3"))
        for path in folder.with_name("X3").iterdir():
            write_png(path.with_name(path.name.replace("x2", "x3")), read_image(path)[:13, :10])
    return "--scale 3 --load full"


@case(r"was trained for --k_bits 4 \(asked for: 3\)", quantized=True)
def checkpoint_of_other_bits_to_test(world):
    return "--k_bits 3 --load low --test_only"


@case(r"was trained with --k_bits 4; give that instead of 2", quantized=True)
def checkpoint_of_other_bits_to_continue(world):
    return "--k_bits 2 --load low --epochs 3"


@case(r"is a quantized network at --k_bits 4 .*give a full-precision one")
def quantized_checkpoint_in_full_precision(world):
    return f"--test_only --refine {world.checkpoint('low')}"


@case(r"is a full-precision network \(asked for: --k_bits 4\); .* takes it with --pre_train", quantized=True)
def full_precision_checkpoint_in_quantization(world):
    return f"--test_only --refine {world.checkpoint('full')}"


@case(r"was trained with --k_bits 32; .*--pre_train", quantized=True)
def full_precision_run_to_continue_quantized(world):
    return "--load full --epochs 3"


@case(r"holds weights, no training to continue")
def weights_alone_to_continue(world):
    return f"--resume {world.saved(read_torch_file(world.checkpoint())['state_dict'])}"


@case(r"spoilt\.pt: holds no state dict")
def numbers_for_a_checkpoint(world):
    return f"--pre_train {world.saved([1, 2, 3])} --save other"


@case(r"1 not finite: head\.0\.weight")
def nan_in_weights(world):
    state = read_torch_file(world.checkpoint())["state_dict"]
    state["head.0.weight"][0, 0, 0, 0] = float("nan")
    return f"--pre_train {world.saved(state)} --save other"


@case(r"1 not finite: body\.1\.bias")
def infinity_in_a_checkpoint(world):
    state = read_torch_file(world.checkpoint())["state_dict"]
    state["body.1.bias"][0] = float("inf")
    return f"--resume {world.changed('full', state_dict=state)} --epochs 3"


@case(r"1 of another shape: head\.0\.weight \(8, 1, 3, 3\) for \(8, 3, 3, 3\)")
def weights_of_another_shape(world):
    state = read_torch_file(world.checkpoint())["state_dict"]
    state["head.0.weight"] = state["head.0.weight"][:, :1]
    return f"--pre_train {world.saved(state)} --save other"


@case(r"spoilt\.pt: is an incomplete checkpoint")
def checkpoint_without_weights(world):
    return f"--resume {world.changed('full', state_dict=None)} --epochs 3"


@case(r"spoilt\.pt: is an incomplete checkpoint")
def checkpoint_with_text_for_weights(world):
    state = read_torch_file(world.checkpoint())["state_dict"] | {"head.0.weight": "none"}
    return f"--pre_train {world.changed('full', state_dict=state)} --save other"


@case(r"spoilt\.pt: holds no complete training state", quantized=True)
def checkpoint_without_its_schedule(world):
    return f"--resume {world.changed('low', objective={})} --epochs 3"


@case(r"spoilt\.pt: holds no complete training state")
def checkpoint_with_an_epoch_that_is_no_number(world):
    return f"--resume {world.changed('full', epoch='late')} --epochs 3"


@case(r"was trained with --optimizer ADAM; give that instead of SGD")
def checkpoint_of_another_optimizer(world):
    return "--load full --optimizer SGD --epochs 3"


@case(r"stopped after batch 9 of its epoch, --test_every is 3 now")
def checkpoint_beyond_the_epoch(world):
    return f"--resume {world.changed('full', batch=9)}"


# flags and places ---------------------------------------------------------------------------------------------------

@case(r"--batch_size 1000000000000: ")
def absurd_batch(world):
    return "--batch_size 1000000000000"


@case(r"--n_threads 1000000: ")
def absurd_number_of_workers(world):
    return "--n_threads 1000000"


@case(r"--n_resblocks 1000000000: ")
def absurd_depth(world):
    return "--n_resblocks 1000000000"


@case(r"--n_feats 1000000000: ")
def absurd_width(world):
    return "--n_feats 1000000000"


@case(r"--seed 10{30}: ")
def absurd_seed(world):
    return "--seed 1" + 30 * "0"


@case(r"loss L1 is not finite in epoch 1")
def absurd_learning_rate(world):
    return "--lr 1e30 --test_every 9 --save other"


@case(r"--chop_size 3: ")
def absurd_tile(world):
    return "--chop --chop_size 3"


@case(r"--n_GPUs 4: .* type torchrun --nproc_per_node 4")
def several_gpus_without_torchrun(world):
    return "--n_GPUs 4"


@case(r"--save \S*file/run: \S*file is no folder that can be written to")
def save_below_a_file(world):
    (world.experiments / "file").write_text("")
    return "--save file/run"


@case(r"--save \.\./\.\./elsewhere: runs lie in")
def save_outside_of_the_experiments(world):
    return "--save ../../elsewhere"


@case(r"--reset: .* is not a run of this program")
def reset_of_a_folder_that_is_no_run(world):
    (world.experiments / "letters").mkdir()
    (world.experiments / "letters" / "dear.txt").write_text("")
    return "--save letters --reset"


@case(r"--data_train Nowhere")
def reset_with_a_mistake_in_another_flag(world):
    return "--save full --reset --data_train Nowhere"


@case(r"vgg\.pth: ")
def weights_of_a_loss_that_are_broken(world):
    (world.data / "vgg.pth").write_bytes(b"no zip")
    return f"--loss 1*VGG22 --vgg_weights {world.data / 'vgg.pth'}"


# --------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def finished(tmp_path_factory, launch_anywhere):
    """A folder with the runs `full` and `low`, made once."""
    root = tmp_path_factory.mktemp("finished")
    (root / "work").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "work")
        assert launch_anywhere("--save full") == 0
        assert launch_anywhere("--save low --epochs 2", quantized=True) == 0
    return root / "experiment"


@pytest.fixture
def world(finished, tiny_data, experiments, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    shutil.copytree(finished, experiments)
    return World(tmp_path / "data", experiments)


def contents(folder):
    """{path: content} of every file of weights or images below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".tar", ".png", ".txt")
            and path.name not in ("log.txt", "config.txt") and path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_told_in_one_line_and_nothing_lost(name, world, launch, capfd):
    arrange, message, code, quantized = CASES[name]
    flags = arrange(world)
    before = contents(world.experiments)
    capfd.readouterr()
    assert launch(flags, quantized=quantized, data=world.data) == code
    told = capfd.readouterr().err
    if code:
        assert re.fullmatch(r"error: .+\n", told), told
        assert re.search(message, told), told
        after = contents(world.experiments)
        assert before == {path: after.get(path) for path in before}
    assert not (world.data / "exploded").exists()
    assert not list(world.data.parent.rglob(".part-*"))


def test_images_of_every_kind_become_results(world, launch):
    """The results of the cases that have to end well lie where they should, whatever the image was called."""
    for name in ("image_of_16_bits", "cmyk_image", "palette_image_with_a_transparent_entry", "alpha_image",
                 "image_of_one_bit", "image_of_one_pixel", "names_that_would_lead_elsewhere"):
        flags = CASES[name][0](world)
    assert launch(flags, data=world.data) == 0
    results = list((world.experiments / "full" / "results-Demo").iterdir())
    assert len(results) == 10
    evil = {path.parent for path in world.data.parent.rglob("*evil*")}
    assert evil == {world.demo, world.experiments / "full" / "results-Demo"}
    for path in results:
        assert read_image(path).ndim == 3


def test_a_broken_picture_of_a_user_is_told_and_the_others_are_done(world, launch, capfd):
    flags = world.demo_image("good.png", Image.new("RGB", (10, 12)))
    cut_short = (world.demo / "good.png").read_bytes()[:-30]
    for name, content in (("a.png", b""), ("b.png", b"no picture"), ("c.png", cut_short)):
        (world.demo / name).write_bytes(content)
    assert launch(flags, data=world.data) == 1
    told = capfd.readouterr()
    assert re.findall(r"error: .*/(.)\.png: ", told.err) == ["a", "b", "c"]
    assert "1 images in" in told.out and "3 left out" in told.out
    assert [path.name for path in (world.experiments / "full" / "results-Demo").iterdir()] == ["32bit_good_x2_SR.png"]


def test_too_little_memory_is_told(capfd):
    assert run_main(lambda: torch.empty(10**15), lighter="lower --batch_size") == 1
    assert run_main(lambda: torch.empty(10**15)) == 1
    assert capfd.readouterr().err == "error: out of memory; lower --batch_size\nerror: out of memory\n"


def test_what_is_our_own_fault_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="shapes"):
        run_main(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))
