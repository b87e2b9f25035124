"""Facts about sets of labels: each is listed once, and an example competes within its own."""

import torch
import torch.nn.functional as F

from perdure.ops.rivals import enlist, rivals


def test_sets_of_labels_are_listed_once():
    sets, place = enlist((), torch.tensor([1, 2]))
    assert (sets, place) == (((1, 2),), 0)
    sets, place = enlist(sets, torch.tensor([2, 3]))
    assert (sets, place) == (((1, 2), (2, 3)), 1)
    assert enlist(sets, torch.tensor([1, 2])) == (sets, 0)
    assert enlist((), None) == ((), 0)


def test_rivals_compete_within_their_own_set():
    labels = torch.tensor([4, 1, 2, 3])
    assert rivals(labels, ()) == (None, None)
    classes, bias = rivals(labels, ((1, 2),))
    assert classes.tolist() == [1, 2]
    assert bias is None
    classes, bias = rivals(labels, ((1, 2), (2, 3, 4)))
    no = -torch.inf
    assert classes is None
    assert bias.tolist() == [[no, 0, 0, no], [0, no, 0, 0]]

    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets, which = torch.tensor([1, 2, 2, 0, 3, 2]), torch.tensor([0, 0, 1, 1, 1, 0])
    loss = F.cross_entropy(logits + bias[which], targets)
    columns = ([1, 2], [0, 2, 3])
    alone = [
        F.cross_entropy(row[columns[k]][None], torch.tensor([columns[k].index(y)]))
        for row, k, y in zip(logits, which.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    gradient = torch.autograd.grad(loss, logits)[0]
    assert torch.equal(gradient == 0, bias[which] == no)
