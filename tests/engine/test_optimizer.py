import pytest
import torch

from engine.optimizer import build_optimizer


@pytest.mark.parametrize(("name", "kind"), [("ADAM", torch.optim.Adam), ("SGD", torch.optim.SGD),
                                            ("RMSprop", torch.optim.RMSprop)])
def test_optimizers_by_name(name, kind):
    assert type(build_optimizer([{"params": [torch.zeros(1)]}], name=name)) is kind


@pytest.mark.parametrize("name", ["sgd", "AdamW", ""])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=f"optimizer '{name}': choose ADAM, SGD or RMSprop"):
        build_optimizer([{"params": [torch.zeros(1)]}], name=name)
