"""Structured knowledge transfer: where a network's body is active, compared between student and teacher."""

from torch import Tensor
from torch.nn import functional as F


def attention_map(feature: Tensor) -> Tensor:
    """A(F) of quant/README.md, "Losses": F^2 averaged over channels, flattened, of length 1 per sample.

    feature: [N, C, h, w] of any floating dtype. Returns float32 [N, h*w], each row of L2 norm 1 (a feature of zeros
    gives zeros). The squares are taken in float32 even under autocast: past 255 they overflow float16, and bfloat16's
    8 significant bits leave little of a difference between two maps that are nearly alike.
    """
    return F.normalize(feature.float().pow(2).mean(dim=1).flatten(1))


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """AT of quant/README.md, "Losses": the mean over samples and positions of (A(student) - A(teacher))^2.

    student, teacher: body features [N, C, h, w]; the channel counts may differ. Returns a float32 scalar, not yet
    multiplied by w_at. Gradients reach the student only. Raises ValueError when samples or positions differ in number.
    """
    if student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        raise ValueError(f"features differ in samples or positions: {list(student.shape)}, {list(teacher.shape)}")
    return F.mse_loss(attention_map(student), attention_map(teacher.detach()))
