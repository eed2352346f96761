from __future__ import annotations

import torch

from cada_edge.trainer.sampling import batch_indices, seeded


def test_an_epoch_sees_every_image_once_and_drops_the_incomplete_batch() -> None:
    rows = torch.cat([batch_indices(10, 3, iteration, seed=0, stream=1) for iteration in range(3)])
    assert len(set(rows.tolist())) == 9
    following = batch_indices(10, 3, 3, seed=0, stream=1)
    assert not torch.equal(following, rows[:3])


def test_a_batch_follows_from_its_number_alone() -> None:
    assert torch.equal(batch_indices(10, 3, 5, seed=0, stream=1), batch_indices(10, 3, 5, seed=0, stream=1))
    assert not torch.equal(
        batch_indices(99, 16, 0, seed=0, stream=1), batch_indices(99, 16, 0, seed=0, stream=2)
    )
    assert not torch.equal(
        batch_indices(99, 16, 0, seed=0, stream=1), batch_indices(99, 16, 0, seed=1, stream=1)
    )


def test_fewer_images_than_a_batch_are_drawn_with_replacement() -> None:
    rows = batch_indices(2, 16, 0, seed=0, stream=1)
    assert len(rows) == 16
    assert set(rows.tolist()) == {0, 1}


def test_seeded_leaves_the_generator_as_it_was() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(2)
    torch.manual_seed(1)
    with seeded(0, 1, 2):
        inside = torch.rand(1)
    torch.testing.assert_close(torch.rand(2), wanted, atol=0, rtol=0)
    with seeded(0, 1, 2):
        assert torch.equal(torch.rand(1), inside)
