import pytest

from data.sampler import CROP, VISITING_ORDER, TrainSampler, random_words


def sampler(n_images=7, **changes):
    return TrainSampler(n_images, **({"seed": 3, "batch_size": 4, "n_batches": 5} | changes))


def test_an_epoch_shows_every_image_once_before_any_comes_again():
    keys = list(sampler())
    assert [key.position for key in keys] == list(range(20))
    images = [key.image for key in keys]
    assert sorted(images[:7]) == sorted(images[7:14]) == list(range(7))
    assert images[:7] != images[7:14] and len(set(images[14:])) == 6
    assert len(sampler()) == 20


def test_keys_follow_from_seed_and_epoch_alone():
    one, other = sampler(), sampler()
    list(one)
    assert list(one) == list(one) == list(other)
    one.set_position(2)
    assert [key.image for key in one] != [key.image for key in other]
    assert [key.image for key in sampler(seed=4)] != [key.image for key in other]


def test_keys_stay_the_same_from_version_to_version():
    """A run must go on with the samples it began with after the program or NumPy was updated."""
    assert [key.image for key in sampler()][:7] == [1, 0, 5, 4, 6, 3, 2]
    assert random_words(CROP, 1, 2, 3, count=2).tolist() == [15464193826545181553, 12810349368038389510]


def test_random_words_differ_by_purpose_and_take_any_seed():
    assert random_words(CROP, 1, 2, 3, count=1) != random_words(VISITING_ORDER, 1, 2, 3, count=1)
    assert random_words(CROP, -1, 2**70, count=1) == random_words(CROP, 2**64 - 1, 2**70 % 2**64, count=1)


@pytest.mark.parametrize("batch", [0, 2, 5])
def test_a_position_within_an_epoch_gives_the_rest_of_it(batch):
    whole = sampler()
    whole.set_position(6)
    rest = sampler()
    rest.set_position(6, batch)
    assert list(rest) == list(whole)[4 * batch :]
    assert len(rest) == 20


def test_ranks_together_see_the_batches_of_one_process():
    whole = list(sampler())
    ranks = [list(sampler(rank=rank, world_size=2)) for rank in range(2)]
    assert len(sampler(world_size=2)) == 10
    for batch in range(5):
        together = [key for keys in ranks for key in keys[2 * batch : 2 * batch + 2]]
        assert together == whole[4 * batch : 4 * batch + 4]


def test_an_iterator_keeps_the_position_it_was_made_at():
    keys = sampler()
    iterator = iter(keys)
    keys.set_position(9, 3)
    assert next(iterator).epoch == 1
