import contextlib
import logging
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data.cache
from data.cache import DecodedCache
from data.images import read_image, write_png
from utility import UserError

NAMES = [f"{number}.png" for number in range(6)]


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        write_png(tmp_path / "HR" / name, rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return [tmp_path / "HR" / name for name in NAMES]


def copies_of(images):
    """Where the copies of the images as they are now lie."""
    return [Path(DecodedCache(images[0].parents[1])._copy(image)) for image in images]


@pytest.fixture
def copies(images):
    return copies_of(images)


def prepared(images, **how):
    cache = DecodedCache(images[0].parents[1])
    cache.prepare(images, **how)
    return cache


def is_mapped(pixels):
    """Whether pixels are a read-only view of a file of which the process holds a mapping."""
    address = pixels.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        ranges = [line.split() for line in maps if line.endswith(".npy\n")]
    in_file = any(int(low, 16) <= address < int(high, 16) for low, high in (r[0].split("-") for r in ranges))
    return in_file and not pixels.flags.writeable


@pytest.mark.parametrize("threads", [1, 3])
def test_a_copy_holds_the_pixels_and_is_mapped(images, copies, threads):
    cache = prepared(images, threads=threads)
    for image, copy in zip(images, copies, strict=True):
        assert is_mapped(cache.read(image)) and is_mapped(cache.read(image)[2:5, 3:7])
        assert np.array_equal(cache.read(image), read_image(image))
        assert np.array_equal(np.load(copy, mmap_mode="r", allow_pickle=False), read_image(image))
    assert sorted(copies[0].parent.iterdir()) == copies


def test_copies_that_fit_are_kept_and_nothing_is_said(images, copies, monkeypatch, caplog):
    prepared(images)
    before = [copy.stat().st_mtime_ns for copy in copies]
    monkeypatch.setattr(data.cache, "read_image", None)  # decoding would fail
    with caplog.at_level(logging.INFO):
        again = prepared(images)
    assert is_mapped(again.read(images[0])) and not caplog.messages
    assert [copy.stat().st_mtime_ns for copy in copies] == before


def test_a_changed_image_is_decoded_anew(images, copies):
    prepared(images)
    write_png(images[0], read_image(images[0])[::-1].copy())
    cache = prepared(images)
    assert np.array_equal(cache.read(images[0]), read_image(images[0])) and is_mapped(cache.read(images[0]))
    assert sorted(copies[0].parent.iterdir()) == copies_of(images)


def test_copies_of_the_former_form_are_removed_and_those_of_other_images_are_not(images, copies):
    former, other_former, *others = (copies[0].with_name(name) for name in (
        "0.png.npy", f"0.png.{images[0].stat().st_size}-{images[0].stat().st_mtime_ns}.npy", "10.png.npy", ".npy"))
    former.parent.mkdir(parents=True)
    for file in (former, other_former, *others):
        file.write_bytes(b"pixels")
    prepared(images)
    assert sorted(copies[0].parent.iterdir()) == sorted([*copies, *others])


@pytest.mark.parametrize("larger, later", [(1, 0), (0, 1)])
def test_size_and_time_of_an_image_each_tell_a_change(images, copies, larger, later):
    os.utime(images[0], ns=(0, 12345))
    prepared(images)
    before = {copy: copy.stat().st_ino for copy in copies_of(images)}
    with open(images[0], "ab") as file:
        file.write(bytes(larger))
    os.utime(images[0], ns=(0, 12345 + later))
    prepared(images)
    assert [before.get(copy) == copy.stat().st_ino for copy in copies_of(images)] == [False] + [True] * 5


def test_images_of_one_size_and_time_that_change_names_are_told_apart(tmp_path):
    """As unpacked archives have them; files that are not compressed are all of one size."""
    rng = np.random.default_rng(0)
    images = [tmp_path / "HR" / name for name in ("0.bmp", "1.bmp")]
    images[0].parent.mkdir()
    for image in images:
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(image)
        os.utime(image, (1000, 1000))
    prepared(images)
    images[0].rename(tmp_path / "HR" / "x.bmp")
    images[1].rename(images[0])
    (tmp_path / "HR" / "x.bmp").rename(images[1])
    cache = prepared(images)
    assert all(is_mapped(cache.read(image)) for image in images)
    assert all(np.array_equal(cache.read(image), read_image(image)) for image in images)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_broken_or_hostile_copy_is_made_anew_and_never_run(images, copies, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared(images)
    whole = copies[0].read_bytes()
    copies[0].write_bytes(whole[:-30])
    copies[1].write_bytes(b"")
    np.save(copies[2], np.array([Bomb()]), allow_pickle=True)
    copies[3].write_bytes(pickle.dumps(Bomb()))
    np.save(copies[4], np.zeros((9, 12), np.uint8))
    copies[5].write_bytes(whole + b"more")
    cache = prepared(images)
    assert not (tmp_path / "exploded").exists()
    for image in images:
        assert np.array_equal(cache.read(image), read_image(image)) and is_mapped(cache.read(image))


def test_a_copy_of_another_size_or_kind_is_made_anew(images, copies):
    prepared(images)
    for copy, pixels in zip(copies, [np.zeros((2, 2, 3)), np.zeros((9, 12, 4)), np.zeros((9, 12, 3)),
                                     np.zeros((9, 12, 3), order="F")], strict=False):
        np.save(copy, pixels.astype(np.uint8 if copy != copies[2] else np.float32))
    copies[4].unlink()
    os.mkfifo(copies[4])
    whole = copies[5].read_bytes()
    copies[5].write_bytes(whole.replace(b"(9, 12, 3)", b"(((((((((("))
    cache = prepared(images)
    for image in images:
        assert np.array_equal(cache.read(image), read_image(image)) and is_mapped(cache.read(image))


def test_a_folder_in_a_copys_place_costs_speed_only(images, copies):
    copies[0].mkdir(parents=True)
    cache = prepared(images)
    assert all(np.array_equal(cache.read(image), read_image(image)) for image in images)


def test_a_copy_that_another_run_made_anew_in_another_size_is_not_misread(images, copies):
    cache = prepared(images)
    write_png(images[0], np.zeros((30, 12, 3), np.uint8))
    prepared(images)
    assert cache.read(images[0]).shape == (30, 12, 3)


def test_rebuild_makes_every_copy_once(images, copies, monkeypatch):
    prepared(images)
    before = [copy.stat().st_ino for copy in copies]
    for copy in copies:
        os.utime(copy, (time.time() + 3600, time.time() + 3600))  # by a clock that is ahead
    prepared(images, rebuild=True)
    assert all(copy.stat().st_ino != old for copy, old in zip(copies, before, strict=True))

    def another_rank_makes_them(_):
        monkeypatch.undo()
        prepared(images, rebuild=True)
        monkeypatch.setattr(data.cache, "read_image", None)  # decoding would fail

    monkeypatch.setattr(data.cache, "remove_unfinished", another_rank_makes_them)
    assert is_mapped(prepared(images, rebuild=True).read(images[0]))


def test_a_folder_that_cannot_be_written_costs_speed_only(images, copies, monkeypatch, caplog):
    @contextlib.contextmanager
    def read_only(path):
        raise OSError(30, "Read-only file system", str(path))
        yield

    prepared(images)
    for copy in copies[2:]:
        copy.unlink()
    monkeypatch.setattr(data.cache, "atomic_path", read_only)
    cache = prepared(images, threads=2)
    assert len([line for line in caplog.messages if "Read-only file system; images without a copy" in line]) == 1
    assert [is_mapped(cache.read(image)) for image in images] == [True] * 2 + [False] * 4
    assert all(np.array_equal(cache.read(image), read_image(image)) for image in images)


@pytest.mark.parametrize("left", ["nothing", "a pipe", "a folder", "half"])
def test_copies_may_disappear_during_a_run(images, copies, left):
    cache = prepared(images)
    content = copies[0].read_bytes()
    copies[0].unlink()
    if left == "a pipe":
        os.mkfifo(copies[0])
    elif left == "a folder":
        copies[0].mkdir()
    elif left == "half":
        copies[0].write_bytes(content[:-100])
    assert np.array_equal(cache.read(images[0]), read_image(images[0]))


def test_what_a_killed_process_left_is_removed_and_what_another_writes_now_is_not(images, copies):
    prepared(images)
    copies[0].unlink()
    old, new = (copies[0].with_name(f".part-0.{kind}.npy") for kind in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    prepared(images)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_broken_image_is_a_user_error(images, tmp_path):
    images[3].write_bytes(images[3].read_bytes()[:60])
    with pytest.raises(UserError, match="3.png: not a readable image"):
        prepared(images, threads=2)
    assert not [path for path in (tmp_path / "decoded" / "HR").iterdir() if path.name.startswith(".")]


def _prepare_at(barrier, images, how):
    barrier.wait()
    for _ in range(3):
        cache = prepared(images, **how)
        assert all(np.array_equal(cache.read(image), read_image(image)) for image in images)


@pytest.mark.parametrize("how", [{}, {"rebuild": True, "threads": 2}])
def test_processes_may_prepare_one_folder_at_once(images, copies, how):
    fresh = multiprocessing.get_context("forkserver")  # a fork of pytest's own process would have half of its threads
    fresh.set_forkserver_preload(["data.cache"])
    barrier = fresh.Barrier(3)
    processes = [fresh.Process(target=_prepare_at, args=(barrier, images[n:] + images[:n], how), daemon=True)
                 for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(copies[0].parent.iterdir()) == copies


def test_a_worker_gets_the_list_of_copies_and_no_pixels(images):
    cache = pickle.loads(pickle.dumps(prepared(images)))
    assert is_mapped(cache.read(images[0]))
    assert len(pickle.dumps(cache)) < 3000
