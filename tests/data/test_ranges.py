import pytest

from data.image_sets import parse_ranges, range_of_each_set
from utility import UserError


def test_parts_and_sets():
    assert parse_ranges("1-800/801-810") == [[(1, 800)], [(801, 810)]]
    assert parse_ranges("1-800+1-2650/801-810") == [[(1, 800), (1, 2650)], [(801, 810)]]
    assert parse_ranges("7-7") == [[(7, 7)]]


@pytest.mark.parametrize("text", ["", "1-4:5-6", "4-1", "0-4", "1-4/", "1-4+", "1-2/3-4/5-6", "1-²", "1--2", "a-b",
                                  "1-" + 5000 * "9"])
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match="--data_range .*expected first-last.*as 1-800/801-810"):
        parse_ranges(text)


def test_who_gets_which_range():
    assert range_of_each_set([(1, 8)], ["Mine"], "") == [(1, 8)]
    assert range_of_each_set([(1, 8)], ["DIV2K", "Flickr2K"], "") == [(1, 8), None]
    assert range_of_each_set([(1, 8)], ["Flickr2K", "DIV2K"], "") == [None, (1, 8)]
    assert range_of_each_set([(1, 8)], ["DIV2K", "DIV2K-Q10", "Mine"], "") == [(1, 8), (1, 8), None]
    assert range_of_each_set([(1, 8)], ["A", "B"], "") == [(1, 8), None]
    assert range_of_each_set([(1, 8), (2, 3)], ["Flickr2K", "DIV2K", "Mine"], "") == [(1, 8), (2, 3), None]
    with pytest.raises(UserError, match="--data_range 1-8.2-3: 2 ranges for DIV2K"):
        range_of_each_set([(1, 8), (2, 3)], ["DIV2K"], "1-8+2-3")
