from __future__ import annotations

from pathlib import Path

import pytest

from cada_edge.errors import ConfigError
from cada_edge.runtime.datasets import Sample
from cada_edge.runtime.holdout import FEWEST_IMAGES, split_holdout


def samples(count: int, *, folder: str = "bottle") -> list[Sample]:
    names = [f"{folder}/train/good/{number:04}.png" for number in range(count)]
    return [Sample(Path(name), folder, "train", False, "good", None, name) for name in names]


def names(chosen: tuple[Sample, ...]) -> set[str]:
    return {sample.relative for sample in chosen}


def test_the_parts_are_disjoint_complete_and_in_order() -> None:
    given = samples(500)
    kept, held_out = split_holdout(given, fraction=0.1, seed=0)
    assert names(kept) | names(held_out) == names(tuple(given))
    assert len(kept) + len(held_out) == 500
    assert list(kept) == sorted(kept, key=given.index)
    # Binomial with n = 500, p = 0.1: mean 50, standard deviation 6.7.
    assert 25 <= len(held_out) <= 75


def test_the_split_is_the_same_on_every_machine() -> None:
    # Golden: a change here voids the thresholds of every model trained before.
    _, held_out = split_holdout(samples(40), fraction=0.2, seed=7)
    assert [sample.relative[-8:-4] for sample in held_out] == [
        "0001",
        "0006",
        "0007",
        "0008",
        "0009",
        "0010",
        "0012",
        "0027",
        "0035",
    ]
    assert split_holdout(samples(40), fraction=0.2, seed=8)[1] != held_out


def test_new_images_move_no_other() -> None:
    few, many = samples(300), samples(600)
    held_few, held_many = (split_holdout(given, fraction=0.1, seed=3)[1] for given in (few, many))
    assert names(held_few) == names(held_many) & names(tuple(few))
    reversed_held = split_holdout(many[::-1], fraction=0.1, seed=3)[1]
    assert names(reversed_held) == names(held_many)


def test_every_folder_gives_its_share_and_labels_do_not_matter() -> None:
    given = [sample for folder in ("a", "b", "c") for sample in samples(300, folder=folder)]
    _, held_out = split_holdout(given, fraction=0.1, seed=0)
    assert all(10 <= sum(sample.category == folder for sample in held_out) <= 50 for folder in "abc")
    relabelled = [Sample(s.image, "part", "train", False, "good", None, s.relative) for s in given]
    assert names(split_holdout(relabelled, fraction=0.1, seed=0)[1]) == names(held_out)


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 0.999999])
def test_from_ten_images_on_neither_part_is_empty(fraction: float) -> None:
    for seed in range(50):
        kept, held_out = split_holdout(samples(FEWEST_IMAGES), fraction=fraction, seed=seed)
        assert kept
        assert held_out


def test_nothing_is_held_out_of_nine_images_or_by_a_zero_fraction() -> None:
    assert split_holdout(samples(9), fraction=0.5, seed=0) == (tuple(samples(9)), ())
    assert split_holdout(samples(50), fraction=0, seed=0) == (tuple(samples(50)), ())
    assert split_holdout([], seed=0) == ((), ())


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(
        ConfigError, match=r"held-out fraction of .* came; wanted at least 0 and below 1\. Take 0\.1"
    ):
        split_holdout(samples(20), fraction=fraction, seed=0)


def test_names_that_are_not_utf8_are_split_by_their_bytes() -> None:
    # As os.fsdecode gives b"gr\xfcn" on a system of UTF-8.
    given = samples(300, folder="gr\udcfcn")
    kept, held_out = split_holdout(given, fraction=0.1, seed=0)
    assert 10 <= len(held_out) <= 50
    assert len(kept) + len(held_out) == 300
