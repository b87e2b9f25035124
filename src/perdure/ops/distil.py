"""Distillation: a network learns again what another answered, softened by a temperature.

    KD = -sum_c q_c log p_c      q = softmax(z' / tau) of the teacher, p = softmax(z / tau)

Reference: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015, arXiv 1503.02531.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distance(logits: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """(B,) KD between logits (B, n) and those of a teacher (B, m), m <= n; of labels it did not know yet q is 0.

    Not multiplied by tau^2: its gradient shrinks as 1 / tau.
    """
    log_p = F.log_softmax(logits / tau, 1)
    return -((teacher / tau).softmax(1) * log_p[:, : teacher.shape[1]]).sum(1)
