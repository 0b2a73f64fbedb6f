import errno
import gc
import logging
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from PIL import Image

from data.build import build_test_sets, build_train_loader
from data.images import read_image, write_png
from data.pictures import to_planes, to_values
from utility import UserError, run_main


def to_tensor(image, **colours):
    return to_values(to_planes(image), **colours)


def epoch(loader, number=1, batch=0):
    loader.sampler.set_position(number, batch)
    return list(loader)


def assert_same(batches, others):
    assert len(batches) == len(others)
    for (lr, hr, names), (other_lr, other_hr, other_names) in zip(batches, others, strict=True):
        assert torch.equal(lr, other_lr) and torch.equal(hr, other_hr) and names == other_names


# Training


def test_batches_are_aligned_patches_of_the_images_in_the_range(tmp_path, div2k, make_options):
    pixels = div2k(tmp_path)
    loader = build_train_loader(make_options())
    batches = epoch(loader)
    assert len(loader) == len(batches) == 5
    for lr, hr, names in batches:
        assert lr.shape == (4, 3, 8, 8) and hr.shape == (4, 3, 16, 16) and lr.dtype == hr.dtype == torch.float32
        assert lr.is_contiguous() and hr.is_contiguous()
        assert torch.equal(hr[:, :, ::2, ::2], lr) and torch.equal(hr[:, :, 1::2, 1::2], lr)
        for patch, name in zip(lr, names, strict=True):
            assert set(patch.flatten().tolist()) <= set(pixels[name].flatten().tolist())
    assert {name for *_, names in batches for name in names} == {"0001", "0002", "0003", "0004"}


def orientations(patch):
    """The eight flips and turns of [3, p, p], as bytes."""
    turned = [torch.rot90(side, times, (1, 2)) for side in (patch, patch.flip(2)) for times in range(4)]
    return [image.contiguous().numpy().tobytes() for image in turned]


def test_patches_come_in_all_eight_orientations_and_at_every_place(tmp_path, div2k, make_options):
    lr = div2k(tmp_path, 1, size=(9, 10))["0001"]
    whole = to_tensor(lr)
    places = {}
    for top in range(2):
        for left in range(3):
            for turn, view in enumerate(orientations(whole[:, top : top + 8, left : left + 8])):
                places[view] = (top, left, turn)
    loader = build_train_loader(make_options(data_range="1-1", test_every=300))
    seen = [places[patch.numpy().tobytes()] for lr, *_ in epoch(loader) for patch in lr]
    assert len(set(seen)) == 48
    # 1200 draws of 48 equal chances: 25 each, standard deviation 5; six of them on either side
    assert all(0 < seen.count(place) < 55 for place in set(seen))


def test_no_augment_only_crops(tmp_path, div2k, make_options):
    lr = div2k(tmp_path, 1, size=(8, 8))["0001"]
    loader = build_train_loader(make_options(data_range="1-1", no_augment=True))
    assert all((batch == to_tensor(lr)).all() for batch, *_ in epoch(loader))


@pytest.mark.parametrize("ext", ["img", "sep", "sep_reset"])
def test_workers_and_cache_change_no_bit(tmp_path, div2k, make_options, ext):
    div2k(tmp_path)
    expected = epoch(build_train_loader(make_options()), 3)
    for n_threads in (0, 1, 4):
        assert_same(epoch(build_train_loader(make_options(ext=ext, n_threads=n_threads)), 3), expected)
    assert (tmp_path / "DIV2K" / "decoded").exists() == (ext != "img")


@pytest.mark.parametrize("n_threads", [0, 2])
def test_an_epoch_can_be_entered_at_any_batch(tmp_path, div2k, make_options, n_threads):
    div2k(tmp_path)
    loader = build_train_loader(make_options(n_threads=n_threads))
    whole = epoch(loader, 2)
    assert_same(epoch(loader, 2, batch=3), whole[3:])
    assert epoch(loader, 2, batch=5) == []
    loader.sampler.set_position(7)
    next(iter(loader))  # left behind with batches under way
    assert_same(epoch(loader, 2), whole)
    assert len(loader) == 5


def test_epochs_and_seeds_differ_and_runs_repeat(tmp_path, div2k, make_options):
    div2k(tmp_path)
    loader = build_train_loader(make_options())
    first = epoch(loader, 1)
    assert_same(epoch(build_train_loader(make_options()), 1), first)
    assert not torch.equal(epoch(loader, 2)[0][1], first[0][1])
    assert not torch.equal(epoch(build_train_loader(make_options(seed=2)), 1)[0][1], first[0][1])


def test_ranks_see_slices_of_the_global_batches(tmp_path, div2k, make_options):
    div2k(tmp_path)
    whole = epoch(build_train_loader(make_options()), 2)
    ranks = [epoch(build_train_loader(make_options(ext="sep"), rank=rank, world_size=2), 2) for rank in range(2)]
    together = [
        (torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]]), one[2] + other[2])
        for one, other in zip(*ranks, strict=True)
    ]
    assert_same(together, whole)
    with pytest.raises(UserError, match="--batch_size 4: cannot be shared by 3 processes"):
        build_train_loader(make_options(), world_size=3)


def test_the_global_random_state_is_left_alone(tmp_path, div2k, make_options):
    div2k(tmp_path)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    epoch(build_train_loader(make_options(n_threads=1)))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_rgb_range_and_luma(tmp_path, div2k, make_options):
    div2k(tmp_path)
    for rgb_range in (1, 100.5):
        for usual, scaled in zip(
            epoch(build_train_loader(make_options())),
            epoch(build_train_loader(make_options(rgb_range=rgb_range))),
            strict=True,
        ):
            assert torch.equal(usual[1] * (rgb_range / 255), scaled[1])
    lr, hr, _ = epoch(build_train_loader(make_options(n_colors=1)))[0]
    assert lr.shape == (4, 1, 8, 8) and hr.shape == (4, 1, 16, 16)


def test_luma_has_the_values_of_bt601():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    # 16 + weight of the colour; float32 sums of three terms around 100
    torch.testing.assert_close(
        to_tensor(colours, n_colors=1),
        torch.tensor([[[16, 235, 81.481, 144.553, 40.966]]]),
        rtol=0,
        atol=2e-5,
    )


def test_a_scale_that_does_not_divide_the_patch(tmp_path, div2k, make_options):
    div2k(tmp_path, scale=3)
    lr, hr, _ = epoch(build_train_loader(make_options(scale=3, patch_size=16)))[0]
    assert lr.shape[2:] == (5, 5) and hr.shape[2:] == (15, 15)


def names_in(loader):
    return {pair.name for pair, _ in loader.dataset.train_set.sources}


def test_sets_are_joined_and_may_lie_in_any_of_the_layouts(tmp_path, div2k, add_images, make_options):
    div2k(tmp_path)
    div2k(tmp_path, 2, name="BSD400", first=11)
    add_images(tmp_path / "Prepared/DIV2K_train_HR", tmp_path / "Prepared/DIV2K_train_LR_bicubic", ["0021"])
    add_images(tmp_path / "Flickr2K/Flickr2K_HR", tmp_path / "Flickr2K/Flickr2K_LR_bicubic", ["0031"])
    add_images(tmp_path / "291/HR", tmp_path / "291/LR_bicubic", ["t1", "t2"])
    loader = build_train_loader(make_options(data_train=["DIV2K", "BSD400", "Prepared", "Flickr2K", "291"], ext="sep"))
    assert names_in(loader) == {f"{n:04d}" for n in (1, 2, 3, 4, 11, 12, 21, 31)} | {"t1", "t2"}
    assert {name for *_, names in epoch(loader) for name in names} == names_in(loader)


def test_the_range_counts_sorted_files_and_is_told(tmp_path, div2k, make_options, caplog):
    div2k(tmp_path, 8, first=5)
    with caplog.at_level(logging.INFO):
        assert names_in(build_train_loader(make_options(data_range="2-3"))) == {"0006", "0007"}
        assert names_in(build_train_loader(make_options(data_range="7-800/1-1"))) == {"0011", "0012"}
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "images 2-3 of 8 (--data_range), 0006 to 0007",
        "images 7-8 of 8 (--data_range), 0011 to 0012",
    ]


def test_benchmark_sets_beside_the_others_are_measured_as_such(tmp_path, add_images, div2k, make_options):
    div2k(tmp_path)
    add_images(tmp_path / "Set5" / "HR", tmp_path / "Set5" / "LR_bicubic", ["baby", "bird"])
    [test_set] = build_test_sets(make_options(data_test=["Set5"], data_range="1-4/1-1"))
    assert (test_set.luma, test_set.border, len(test_set)) == (True, 2, 2)


def test_a_range_for_each_set(tmp_path, div2k, make_options):
    div2k(tmp_path)
    div2k(tmp_path, 3, name="Flickr2K", first=11)
    both = {"data_train": ["DIV2K", "Flickr2K"]}
    assert names_in(build_train_loader(make_options(**both))) == {f"{n:04d}" for n in (1, 2, 3, 4, 11, 12, 13)}
    two = make_options(**both, data_range="1-2+2-3/5-6")
    assert names_in(build_train_loader(two)) == {"0001", "0002", "0012", "0013"}
    sets = build_test_sets(make_options(data_test=["Flickr2K", "DIV2K"], data_range="1-4/5-6"))
    assert [[name for *_, name in test_set] for test_set in sets] == [["0011", "0012", "0013"], ["0005", "0006"]]


@pytest.mark.parametrize("case", ["one set", "a lone range is the first set's", "JPEG inputs", "a link"])
def test_images_to_train_with_are_not_tested_with(tmp_path, div2k, make_options, case):
    div2k(tmp_path)
    div2k(tmp_path, 3, name="Flickr2K", first=11)
    options = make_options(data_range="1-5/5-6")
    if case == "a lone range is the first set's":
        options = make_options(data_train=["DIV2K", "Flickr2K"], data_test=["DIV2K", "Flickr2K"])
    elif case == "JPEG inputs":
        (tmp_path / "DIV2K/DIV2K_Q10").symlink_to(tmp_path / "DIV2K/DIV2K_train_LR_bicubic")
        options.data_test = ["DIV2K-Q10"]
    elif case == "a link":
        (tmp_path / "benchmark/Mine").mkdir(parents=True)
        (tmp_path / "benchmark/Mine/HR").symlink_to(tmp_path / "DIV2K/DIV2K_train_HR")
        (tmp_path / "benchmark/Mine/LR_bicubic").symlink_to(tmp_path / "DIV2K/DIV2K_train_LR_bicubic")
        options.data_test = ["Mine"]
    with pytest.raises(UserError, match=r"--data_range .* overlap \(\d\), such as .*\.png; give ranges"):
        build_test_sets(options)
    options.test_only = True
    assert build_test_sets(options)


@pytest.mark.parametrize("layout, border", [("benchmark/Mini", 2), ("DIV2K", 8)])
def test_images_too_small_for_ssim_are_named_before_anything_is_decoded(
    tmp_path, add_images, div2k, make_options, layout, border
):
    div2k(tmp_path)
    options = make_options(data_test=["DIV2K", "Mini"], ext="sep")
    for size, right in ((11 + 2 * border + 1) // 2, True), ((11 + 2 * border) // 2, False):
        root = tmp_path / "benchmark/Mini"
        add_images(root / "HR", root / "LR_bicubic", ["one"])
        root, parts = tmp_path / layout, ("HR", "LR_bicubic") if "/" in layout else (HR[6:], LR[6:-3])
        add_images(root / parts[0], root / parts[1], ["one" if "/" in layout else "0005"], size=(size, 40))
        if right:
            assert len(build_test_sets(options)) == 2
            remove(tmp_path / "DIV2K/decoded")
        else:
            with pytest.raises(UserError, match=r"(one|0005)\.png: 80x\d+ pixels are too few to test with"):
                build_test_sets(options)
            assert not list(tmp_path.rglob("decoded/**/0005.png.*"))


def test_the_published_validation_images_follow_the_training_images(tmp_path, div2k, add_images, make_options):
    div2k(tmp_path, 4)
    root = tmp_path / "DIV2K"
    add_images(root / "DIV2K_valid_HR", root / "DIV2K_valid_LR_bicubic", ["0801", "0802"])
    for folder, name in (("HR", "0004.png"), ("LR_bicubic/X2", "0004x2.png")):  # the same image in both
        shutil.copy(root / f"DIV2K_train_{folder}" / name, root / f"DIV2K_valid_{folder}" / name)
    assert [name for *_, name in build_test_sets(make_options())[0]] == ["0801", "0802"]


def test_a_validation_image_that_has_a_training_images_name(tmp_path, div2k, add_images, make_options):
    div2k(tmp_path, 4)
    root = tmp_path / "DIV2K"
    add_images(root / "DIV2K_valid_HR", root / "DIV2K_valid_LR_bicubic", ["0004", "0801"])
    write_png(root / "DIV2K_valid_HR" / "0004.png", np.zeros((24, 24, 3), np.uint8))
    with pytest.raises(UserError, match=r"valid_HR/0004.png: .*train_HR/0004.png has the same name and is another"):
        build_test_sets(make_options())


def test_a_training_range_does_not_reach_into_the_published_validation_images(tmp_path, div2k, add_images,
                                                                              make_options):
    div2k(tmp_path, 4)
    add_images(tmp_path / "DIV2K/DIV2K_valid_HR", tmp_path / "DIV2K/DIV2K_valid_LR_bicubic", ["0801", "0802"])
    loader = build_train_loader(make_options(data_range="3-800/801-802"))
    assert {name for _, _, names in epoch(loader) for name in names} == {"0003", "0004"}


def test_jpeg_inputs(tmp_path, div2k, make_options):
    div2k(tmp_path)
    folder = tmp_path / "DIV2K/DIV2K_Q10/X2"
    folder.mkdir(parents=True)
    for number in range(1, 7):
        Image.new("RGB", (16, 20), (number, 0, 0)).save(folder / f"{number:04d}x2.jpg", quality=100)
    lr, _, names = epoch(build_train_loader(make_options(data_train=["DIV2K-Q10"], ext="sep")))[0]
    # JPEG of a plain colour: a few units of rounding in the colour conversion
    assert [round(float(patch[0].mean())) for patch in lr] == pytest.approx([int(name) for name in names], abs=2)
    (test_set,) = build_test_sets(make_options(data_test=["DIV2K-Q10"]))
    assert test_set.name == "DIV2K-Q10" and [name for *_, name in test_set] == ["0005", "0006"] and not test_set.luma


@pytest.mark.parametrize("n_threads", [0, 2])
def test_an_image_that_breaks_during_training_is_one_line(tmp_path, div2k, make_options, n_threads):
    div2k(tmp_path)
    loader = build_train_loader(make_options(n_threads=n_threads))
    broken = tmp_path / "DIV2K/DIV2K_train_HR/0002.png"
    broken.write_bytes(broken.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"\A[^\n]*0002.png: not a readable image[^\n]*\Z"):
        epoch(loader)


def tell_about_worker(keys):
    return 0, [torch.get_num_threads(), os.getpid()]


def test_workers_have_one_thread_and_outlive_signals_to_the_group(tmp_path, div2k, make_options):
    div2k(tmp_path)
    loader = build_train_loader(make_options(n_threads=2))
    loader.dataset.__getitems__ = tell_about_worker
    batches = iter(loader)
    _, _, (threads, worker) = next(batches)
    assert threads == 1 and worker != os.getpid()
    for number in ("INT", "TERM"):
        subprocess.run(["kill", f"-{number}", str(worker)], check=True)
    time.sleep(0.1)
    assert worker in {pid for *_, (_, pid) in batches}
    assert worker in {pid for *_, (_, pid) in loader}


def test_the_main_process_keeps_its_own_signals(tmp_path, div2k, make_options):
    div2k(tmp_path)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    next(iter(build_train_loader(make_options(n_threads=1))))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def lacking(*_args, **_kind):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "what", ["torch.Tensor.share_memory_", "multiprocessing.Queue", "multiprocessing.Process.start"]
)
def test_workers_that_cannot_be_had_are_one_line_and_none_needs_nothing(
    tmp_path, div2k, make_options, monkeypatch, capfd, what
):
    div2k(tmp_path)
    monkeypatch.setattr(what, lacking)
    assert len(epoch(build_train_loader(make_options()))) == 5
    with pytest.raises(UserError, match=r"--n_threads 2: workers can't be had \(No space left on device\); .*/dev/shm"):
        epoch(build_train_loader(make_options(n_threads=2)))
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_worker_is_one_line(tmp_path, div2k, make_options, capfd):
    div2k(tmp_path)
    loader = build_train_loader(make_options(n_threads=2, test_every=1000))

    def train():
        batches = iter(loader)
        next(batches)
        loader._iterator._workers[0].kill()
        for _ in batches:
            time.sleep(0.01)

    assert run_main(train) == 1
    assert re.fullmatch(r"error: .* was killed, .*memory; .*lower --n_threads\n", capfd.readouterr().err)


@pytest.mark.parametrize("tested", [False, True])
def test_an_image_that_shrinks_during_a_run_is_told(tmp_path, div2k, make_options, tested):
    div2k(tmp_path)
    images = build_test_sets(make_options())[0] if tested else build_train_loader(make_options())
    for number in range(1, 7):
        write_png(tmp_path / HR / f"{number:04d}.png", np.zeros((39, 9, 3), np.uint8))
    with pytest.raises(UserError, match=r"000\d.png and .*000\dx2.png: have changed in size"):
        list(images)


@pytest.mark.parametrize("how", ["fork", "forkserver"])  # the latter is Python 3.14's own choice on Linux
def test_workers_end_at_the_word_of_the_main_process(tmp_path, div2k, make_options, how):
    div2k(tmp_path)
    loader = build_train_loader(make_options(n_threads=1))
    loader.multiprocessing_context = how
    next(iter(loader))
    (worker,) = loader._iterator._workers
    worker.terminate()
    worker.join(10)
    ended = worker.exitcode
    worker.kill()  # or Python would wait for it
    assert ended in (0, -signal.SIGTERM)


# Testing


@pytest.mark.parametrize("ext", ["img", "sep"])
def test_benchmark_sets_of_any_name(tmp_path, add_images, make_options, ext):
    pixels = {}
    for name, images in {"Set5": ["baby", "bird"], "DemoSet": ["cat.1"]}.items():
        root = tmp_path / "benchmark" / name
        pixels |= add_images(root / "HR", root / "LR_bicubic", images)
        (root / "HR" / "Thumbs.db").write_text("not an image")
    set5, demo_set = build_test_sets(make_options(data_test=["Set5", "DemoSet"], ext=ext, test_only=True))
    assert (set5.name, set5.has_hr, set5.luma, len(set5)) == ("Set5", True, True, 2)
    assert [name for *_, name in set5] == ["baby", "bird"] and [name for *_, name in demo_set] == ["cat.1"]
    for lr, hr, name in set5:
        assert torch.equal(lr, to_tensor(pixels[name])) and torch.equal(hr[:, ::2, ::2], lr)
        assert lr.dtype == hr.dtype == torch.float32


def test_hr_is_cut_to_a_multiple_of_lr(tmp_path, add_images, make_options):
    root = tmp_path / "benchmark/Set5"
    add_images(root / "HR", root / "LR_bicubic", ["baby"])
    hr = read_image(root / "HR/baby.png")
    write_png(root / "HR/baby.png", np.pad(hr, ((0, 1), (0, 1), (0, 0)), mode="edge"))
    assert torch.equal(build_test_sets(make_options(data_test=["Set5"], test_only=True))[0][0][1], to_tensor(hr))


def test_div2k_takes_the_second_range_on_rgb(tmp_path, div2k, make_options):
    div2k(tmp_path)
    (test_set,) = build_test_sets(make_options())
    assert [name for *_, name in test_set] == ["0005", "0006"] and test_set.has_hr and not test_set.luma
    (test_set,) = build_test_sets(make_options(data_range="2-3", test_only=True))
    assert [name for *_, name in test_set] == ["0002", "0003"]


def test_demo_is_a_folder_of_any_images_without_hr(tmp_path, make_options):
    folder = tmp_path / "demo"
    folder.mkdir()
    Image.new("L", (5, 4), 7).save(folder / "grey.bmp")
    Image.new("RGBA", (5, 4), (1, 2, 3, 0)).save(folder / "alpha.png")
    Image.new("RGB", (5, 4)).save(folder / "a\\..\\up.jpg")
    (folder / "notes.txt").write_text("ignored")
    (folder / "link.png").symlink_to(folder / "alpha.png")
    (demo,) = build_test_sets(make_options(data_test=["Demo"], ext="sep", test_only=True))
    assert (demo.name, demo.has_hr, len(demo)) == ("Demo", False, 4)
    assert [name for *_, name in demo] == ["a_.._up", "alpha", "grey", "link"]
    assert demo[1][0][:, 0, 0].tolist() == [1, 2, 3] and demo[1][1] is None and demo[2][0].shape == (3, 4, 5)
    assert len(list(folder.iterdir())) == 5


def test_test_sets_scale_and_grey_like_training(tmp_path, div2k, make_options):
    div2k(tmp_path)
    lr, hr, _ = build_test_sets(make_options(rgb_range=1, n_colors=1))[0][0]
    assert lr.shape[0] == hr.shape[0] == 1 and 16 / 255 <= float(hr.min()) < float(hr.max()) <= 235 / 255


# A user's mistakes: each is one line that names the flag or the file and says what to do


def remove(path):
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()


def empty(path):
    remove(path)
    path.mkdir()


def replace(path, size):
    write_png(path, np.zeros((*size, 3), np.uint8))


LR = "DIV2K/DIV2K_train_LR_bicubic/X2"
HR = "DIV2K/DIV2K_train_HR"
MISTAKES = {
    "no data root": (
        {"dir_data": "nowhere"},
        None,
        r"--data_train DIV2K: there is no --dir_data nowhere; expected .*X2/0001x2.png",
    ),
    "unknown set": (
        {"data_train": ["DIV3K"]},
        None,
        r"DIV3K: --dir_data {root} has DIV2K, benchmark/Set5; expected DIV3K/",
    ),
    "a path": ({"data_train": ["../DIV2K"]}, None, r"--data_train '../DIV2K': expected names of data sets"),
    "the parent": ({"data_train": [".."]}, None, r"--data_train '..': expected names of data sets"),
    "no name": ({"data_train": [""]}, None, r"--data_train '': expected names"),
    "no LR": (
        {"scale": 3},
        None,
        r"--scale 3: no folder {root}/DIV2K/DIV2K_train_LR_bicubic/X3; make it with: python -m data.prepare "
        r"--hr {root}/DIV2K/DIV2K_train_HR --out {root}/DIV2K --layout div2k --scales 2 3\Z",
    ),
    "one LR gone": ({}, lambda root: (root / LR / "0002x2.png").unlink(), r"{root}/{LR}: no 0002x2.png for .*prepare"),
    "no JPEG": ({"data_train": ["DIV2K-Q10"]}, None, r"no folder {root}/DIV2K/DIV2K_Q10/X2; .* come with the data set"),
    "no HR images": ({}, lambda root: empty(root / HR), r"{root}/{HR}: no images in it"),
    "LR of scale 4": ({}, lambda root: replace(root / LR / "0001x2.png", (10, 8)), r"0001x2.png: 8x10 does not fit "),
    "LR too large": (
        {},
        lambda root: replace(root / LR / "0001x2.png", (40, 32)),
        r"\(32x40\) at --scale 2, expected 16",
    ),
    "LR too wide": ({}, lambda root: replace(root / LR / "0001x2.png", (20, 17)), r"0001x2.png: 17x20 does not fit "),
    "large patch": (
        {"patch_size": 34},
        None,
        r"--patch_size 34: larger than {root}/{HR}/0001.png \(32x40\); use .* 32",
    ),
    "tiny patch": ({"patch_size": 1}, None, r"--patch_size 1: smaller than one LR pixel at --scale 2"),
    "range outside": ({"data_range": "9-12/1-2"}, None, r"--data_range 9-12: {root}/DIV2K has images 1-6"),
    "range garbled": ({"data_range": "1-4:5-6"}, None, r"--data_range 1-4:5-6: expected first-last/first-last"),
    "range reversed": ({"data_range": "4-1"}, None, r"--data_range 4-1: expected"),
    "range from zero": ({"data_range": "0-4"}, None, r"--data_range 0-4: expected"),
    "header broken": ({}, lambda root: (root / HR / "0003.png").write_text("?"), r"0003.png: not an image"),
    "broken, cached": (
        {"ext": "sep"},
        lambda root: os.truncate(root / HR / "0003.png", 900),
        r"0003.png: not a readable image \(image file is truncated",
    ),
}


@pytest.fixture
def root(tmp_path, div2k, add_images):
    div2k(tmp_path)
    add_images(tmp_path / "benchmark/Set5/HR", tmp_path / "benchmark/Set5/LR_bicubic", ["baby"])
    return tmp_path


def assert_says(caught, message, root):
    text = str(caught.value)
    assert re.search(message.replace("{root}", str(root)).replace("{HR}", HR).replace("{LR}", LR), text), text
    assert "\n" not in text


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_training_data(root, make_options, mistake):
    changes, spoil, message = MISTAKES[mistake]
    if spoil:
        spoil(root)
    with pytest.raises(UserError) as caught:
        build_train_loader(make_options(**changes))
    assert_says(caught, message, root)


TEST_MISTAKES = {
    "unknown set": (["Set6"], {}, r"Set6: --dir_data {root} has DIV2K, benchmark/Set5; expected benchmark/Set6/HR"),
    "one of two": (["Set5", "Set6"], {}, r"--data_test Set6: "),
    "a path": (["../Set5"], {}, r"--data_test '../Set5': expected names of data sets"),
    "no LR": (
        ["Set5"],
        {"scale": 4},
        r"--scale 4: no folder {root}/benchmark/Set5/LR_bicubic/X4; make it with: python -m data.prepare "
        r"--hr {root}/benchmark/Set5/HR --out {root}/benchmark/Set5 --layout benchmark --scales 2 4",
    ),
    "one range": (["DIV2K"], {"data_range": "1-4"}, r"--data_range 1-4: --data_test DIV2K needs a second range"),
    "range outside": (["DIV2K"], {"data_range": "1-4/801-810"}, r"--data_range 801-810: .* has images 1-6"),
    "no demo folder": (["Demo"], {}, r"--dir_demo {root}/demo: no such folder"),
    "empty demo": (["Demo"], {"dir_demo": "{root}/benchmark"}, r"--dir_demo {root}/benchmark: no images in it"),
}


@pytest.mark.parametrize("mistake", TEST_MISTAKES)
def test_mistakes_in_test_data(root, make_options, mistake):
    names, changes, message = TEST_MISTAKES[mistake]
    changes = {key: value.format(root=root) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(UserError) as caught:
        build_test_sets(make_options(data_test=names, **changes))
    assert_says(caught, message, root)


def test_the_command_in_the_message_makes_what_is_missing(root, make_options):
    from data.prepare import main

    remove(root / LR)
    with pytest.raises(UserError) as caught:
        build_train_loader(make_options(scale=4))
    command = str(caught.value).partition("python -m data.prepare ")[2].split()
    assert main([*command, "--workers", "1"]) == 0
    lr, hr, _ = epoch(build_train_loader(make_options(scale=4)))[0]
    assert lr.shape == (4, 3, 4, 4) and hr.shape == (4, 3, 16, 16)


@pytest.mark.parametrize("place", ["benchmark", "."])
def test_the_message_for_a_test_set_in_basicsrs_layout_has_the_command_for_it(tmp_path, make_options, place):
    from data.prepare import main

    pixels = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    write_png(tmp_path / place / "Set9" / "GTmod12" / "baby.png", pixels)
    write_png(tmp_path / place / "Set9" / "LRbicx2" / "baby.png", pixels[::2, ::2])
    options = make_options(data_test=["Set9"], dir_data=str(tmp_path), test_only=True)
    with pytest.raises(UserError, match="--data_test Set9: .*Set9 has BasicSR's layout") as caught:
        build_test_sets(options)
    command = str(caught.value).partition("python -m data.prepare ")[2].split()
    assert main([*command, "--scales", "2", "--workers", "1"]) == 0
    (found,) = build_test_sets(options)
    assert [name for _, _, name in found] == ["baby"] and found.luma
    assert torch.equal(found[0][1], to_tensor(pixels))
