import pytest
import torch

from loss.attention_transfer import attention_map, attention_transfer


def feature(*channels):
    """One sample; each channel a row of positions."""
    return torch.tensor(channels, dtype=torch.float32).view(1, len(channels), 1, -1)


def test_by_hand():
    student, teacher = feature((1, 0), (1, 2)), feature((3, -4))
    # the means of squares are (1, 2) and (9, 16), their lengths sqrt(5) and sqrt(337)
    first, second = 1 / 5**0.5 - 9 / 337**0.5, 2 / 5**0.5 - 16 / 337**0.5
    expected = (first**2 + second**2) / 2
    assert attention_transfer(student, teacher).item() == pytest.approx(expected, rel=1e-5)  # differences in float32


def test_each_sample_has_length_one():
    maps = attention_map(torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0)))
    assert maps.shape == (3, 24)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(3))


def test_gradients_reach_the_student_only():
    student, teacher = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    attention_transfer(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


def test_zero_feature_is_finite():
    student = torch.zeros(1, 2, 2, 2, requires_grad=True)
    value = attention_transfer(student, torch.ones(1, 2, 2, 2))
    value.backward()
    assert value.item() == 0.25 and torch.isfinite(student.grad).all()


def test_squares_are_taken_in_float32_under_autocast():
    student, teacher = feature((300, 400)), feature((400, 300))  # 400^2 overflows float16
    with torch.autocast("cpu", torch.float16):
        value = attention_transfer(student.half(), teacher.half())
    assert value.dtype == torch.float32
    assert torch.equal(value, attention_transfer(student, teacher))


def test_other_positions_are_refused():
    with pytest.raises(ValueError, match="positions"):
        attention_transfer(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 2))
