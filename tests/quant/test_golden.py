import json
from pathlib import Path

import numpy as np
import pytest
from small_networks import CASES, measured

GOLDEN = Path(__file__).parents[1] / "golden" / "networks.json"


@pytest.mark.parametrize("name", CASES)
def test_small_networks_give_the_golden_numbers(name):
    expected, found = json.loads(GOLDEN.read_text())[name], measured(name)
    assert found.keys() == expected.keys()
    for what, numbers in expected.items():
        # attention transfer is computed in float32, everything else in double precision
        np.testing.assert_allclose(found[what], numbers, rtol=1e-5, atol=1e-9, err_msg=what)
