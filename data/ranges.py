"""--data_range: which images of each numbered set are trained with, and which are tested with."""

import re

from utility import UserError

NUMBERS = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
MAIN_SET = "DIV2K"  # as in EDSR-PyTorch, a range that stands alone is DIV2K's
EXAMPLES = "as 1-800/801-810, or for two training sets 1-800+1-2650/801-810"


def parse_ranges(data_range: str) -> list[list[tuple[int, int]]]:
    """'1-800+1-2650/801-810' -> [[(1, 800), (1, 2650)], [(801, 810)]]: training, then testing where it is given.

    Numbers count the sorted images from 1, both ends included. Raises UserError.
    """
    parts = [[NUMBERS.fullmatch(text) for text in part.split("+")] for part in data_range.split("/")]
    if len(parts) > 2 or not all(match for part in parts for match in part):
        raise UserError(f"--data_range {data_range}: expected first-last/first-last, {EXAMPLES}")
    ranges = [[(int(match[1]), int(match[2])) for match in part if match] for part in parts]
    if not all(1 <= first <= last for part in ranges for first, last in part):
        raise UserError(f"--data_range {data_range}: expected first-last with 1 <= first <= last, {EXAMPLES}")
    return ranges


def share_out(ranges: list[tuple[int, int]], names: list[str], data_range: str) -> list[tuple[int, int] | None]:
    """The range of each set in `names`, None for all its images. Raises UserError for more ranges than sets.

    Several ranges belong to the sets in their order. One for several sets is DIV2K's (also of its JPEG inputs), or the
    first set's.
    """
    if len(ranges) > max(1, len(names)):
        raise UserError(f"--data_range {data_range}: {len(ranges)} ranges for {'+'.join(names)}; give one a set")
    if len(ranges) == 1:
        main = [name.partition("-Q")[0] == MAIN_SET for name in names]
        owners = main if any(main) else [index == 0 for index in range(len(names))]
        return [ranges[0] if owner else None for owner in owners]
    return [*ranges, *[None] * (len(names) - len(ranges))]
