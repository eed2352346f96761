from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, OutputError
from cada_edge.trainer.synthetic import GENERATOR_VERSION, KINDS, SyntheticConfig, write_line
from cada_edge.trainer.synthetic_defects import AREA_LIMITS, DEFECTS, draw_defect
from cada_edge.trainer.synthetic_parts import draw_part, photograph_part

TINY = SyntheticConfig(
    size=64, train_per_kind=2, test_normal_per_kind=1, test_anomalous_per_kind=4, kinds=("pill", "terrazzo")
)
KIND_AND_DEFECT = [(kind, defect) for kind in KINDS for defect in DEFECTS[kind]]


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image, np.uint8)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_line(tmp_path_factory.mktemp("lines") / "tiny", TINY)


def test_layout_is_that_of_mvtec_ad(line: Path) -> None:
    assert {path for path in digests(line) if path.startswith("terrazzo")} == {
        "terrazzo/train/good/000.png",
        "terrazzo/train/good/001.png",
        "terrazzo/test/good/000.png",
        *(
            name
            for defect, count in (("crack", 2), ("pit", 1), ("stain", 1))
            for number in range(count)
            for name in (
                f"terrazzo/test/{defect}/{number:03d}.png",
                f"terrazzo/ground_truth/{defect}/{number:03d}_mask.png",
            )
        ),
    }
    assert sorted(path.name for path in line.iterdir()) == ["line.json", "pill", "terrazzo"]


def test_files_hold_colour_images_and_binary_masks(line: Path) -> None:
    image = read(line / "pill/test/crack/000.png")
    mask = read(line / "pill/ground_truth/crack/000_mask.png")
    assert image.shape == (64, 64, 3)
    assert mask.shape == (64, 64)
    assert set(np.unique(mask)) == {0, 255}


def test_line_file_names_the_configuration_and_the_generator(line: Path) -> None:
    described = json.loads((line / "line.json").read_text("utf-8"))
    assert described["generator_version"] == GENERATOR_VERSION
    assert SyntheticConfig(**described["config"]) == TINY


def test_same_configuration_gives_the_same_bytes(line: Path, tmp_path: Path) -> None:
    assert digests(write_line(tmp_path / "again", TINY)) == digests(line)


def test_another_seed_gives_other_images(line: Path, tmp_path: Path) -> None:
    other = digests(write_line(tmp_path / "other", replace(TINY, seed=1)))
    assert not set(digests(line).values()) & set(other.values())


def test_a_larger_line_holds_the_smaller_one_unchanged(line: Path, tmp_path: Path) -> None:
    larger = replace(
        TINY,
        train_per_kind=3,
        test_normal_per_kind=2,
        test_anomalous_per_kind=7,
        kinds=("wood", "terrazzo", "pill"),
    )
    small, large = digests(line), digests(write_line(tmp_path / "larger", larger))
    del small["line.json"]
    assert small.items() <= large.items()
    assert len(large) > len(small) + 1


def test_spoiled_training_images_have_a_defect_and_the_others_stay(tmp_path: Path) -> None:
    plain = replace(TINY, train_per_kind=8, kinds=("pill",))
    before = digests(write_line(tmp_path / "plain", plain))
    after = digests(write_line(tmp_path / "spoiled", replace(plain, spoiled_fraction=0.25)))
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"line.json", "pill/train/good/000.png", "pill/train/good/004.png"}
    first = read(tmp_path / "plain/pill/train/good/000.png").astype(int)
    second = read(tmp_path / "spoiled/pill/train/good/000.png").astype(int)
    share = float((np.abs(first - second).max(axis=2) > 0).mean())
    assert 0 < share <= AREA_LIMITS[1]


def test_all_images_of_a_line_differ(line: Path) -> None:
    images = [digest for path, digest in digests(line).items() if "ground_truth" not in path]
    assert len(set(images)) == len(images)


def test_progress_counts_every_part(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = replace(TINY, kinds=("pill",))
    write_line(tmp_path / "line", config, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]


def test_the_same_line_is_not_drawn_again(line: Path) -> None:
    written = (line / "line.json").stat().st_mtime_ns
    seen: list[int] = []
    assert write_line(line, TINY, progress=lambda done, _total: seen.append(done)) == line
    assert not seen
    assert (line / "line.json").stat().st_mtime_ns == written


def test_an_empty_folder_and_unicode_path_are_accepted(tmp_path: Path) -> None:
    out = tmp_path / "Prüflinie 1"
    out.mkdir()
    write_line(out, replace(TINY, kinds=("pill",)))
    assert (out / "line.json").is_file()


def test_a_line_of_another_configuration_is_refused(line: Path) -> None:
    with pytest.raises(OutputError, match=r"holds a line of another configuration; .* delete this"):
        write_line(line, replace(TINY, defect_strength=2.0))


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match=r"not empty and has no readable line\.json"):
        write_line(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_the_place_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "line"
    out.write_bytes(b"")
    with pytest.raises(OutputError, match="is a file; wanted a folder"):
        write_line(out, TINY)


def test_a_line_with_a_lost_image_is_refused(tmp_path: Path) -> None:
    config = replace(TINY, kinds=("pill",))
    line = write_line(tmp_path / "line", config)
    (line / "pill/test/good/000.png").unlink()
    with pytest.raises(OutputError, match=r"has 10 PNG files, 1 are missing and 0 do not belong"):
        write_line(line, config)


def test_an_interrupted_line_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_line(tmp_path / "line", TINY, progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"could not be written to .*; wanted a folder that can be"):
        write_line(tmp_path / "file" / "line", TINY)


@pytest.mark.parametrize(("kind", "defect"), KIND_AND_DEFECT)
def test_a_defect_changes_the_part_in_its_mask_only(kind: str, defect: str) -> None:
    for index, size in enumerate((64, 96, 128)):
        part = photograph_part(kind, rng(1, index), size)
        found = draw_defect(kind, part, rng(2, index), defect=defect)
        inside = found.mask > 0
        assert found.image.dtype == np.uint8
        assert set(np.unique(found.mask)) == {0, 255}
        assert AREA_LIMITS[0] <= inside.mean() <= AREA_LIMITS[1]
        changed = (found.image != part.image).any(axis=2)
        assert not changed[~inside].any()
        assert changed[inside].mean() > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_an_image_that_varies(kind: str) -> None:
    first, second = draw_part(kind, rng(1), 64), draw_part(kind, rng(2), 64)
    assert first.dtype == np.uint8
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, draw_part(kind, rng(1), 64))
    assert np.abs(first.astype(int) - second).mean() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_scene_does_not_depend_on_the_size(kind: str) -> None:
    small, large = draw_part(kind, rng(3), 128), draw_part(kind, rng(3), 256)
    other = draw_part(kind, rng(4), 128)
    large = np.asarray(cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA), np.uint8)
    same = np.abs(small.astype(int) - large).mean()
    assert same < 0.5 * np.abs(small.astype(int) - other).mean()


@pytest.mark.parametrize(("kind", "defect"), KIND_AND_DEFECT)
def test_the_defect_does_not_depend_on_the_size(kind: str, defect: str) -> None:
    masks = []
    for size in (128, 256):
        part = photograph_part(kind, rng(5), size)
        mask = draw_defect(kind, part, rng(6), defect=defect).mask
        masks.append(cv2.resize(mask, (64, 64), interpolation=cv2.INTER_AREA) > 0)
    assert (masks[0] & masks[1]).sum() > 0.5 * (masks[0] | masks[1]).sum()


def test_strength_scales_a_defect() -> None:
    part = photograph_part("ceramic_tile", rng(1), 128)
    changes = []
    for strength in (1.0, 3.0):
        found = draw_defect("ceramic_tile", part, rng(2), defect="stain", strength=strength)
        changes.append(np.abs(found.image.astype(int) - part.image)[found.mask > 0].mean())
    assert changes[1] == pytest.approx(3 * changes[0], rel=0.15)


def test_busy_parts_get_stronger_defects_than_smooth_ones() -> None:
    def mean_change(kind: str) -> float:
        changes = []
        for index in range(4):
            part = photograph_part(kind, rng(index), 128)
            found = draw_defect(kind, part, rng(7, index), defect="stain")
            changes.append(np.abs(found.image.astype(int) - part.image)[found.mask > 0].mean())
        return float(np.mean(changes))

    assert mean_change("terrazzo") > 2 * mean_change("ceramic_tile")


def test_every_kind_has_two_defects_and_the_line_has_five() -> None:
    assert set(DEFECTS) == set(KINDS)
    assert len(KINDS) >= 8
    assert all(len(DEFECTS[kind]) >= 2 for kind in KINDS)
    assert len({draw for kind in KINDS for draw in DEFECTS[kind].values()}) >= 5


def test_unknown_kind_and_defect_are_named() -> None:
    with pytest.raises(ConfigError, match=r"kind is 'pil'; wanted one of .*pill"):
        draw_part("pil", rng(1), 64)
    part = photograph_part("pill", rng(1), 64)
    with pytest.raises(ConfigError, match=r"'rust' of kind 'pill'; wanted one of crack"):
        draw_defect("pill", part, rng(1), defect="rust")
    with pytest.raises(ConfigError, match=r"of kind 'pil'; wanted a kind among .*pill"):
        draw_defect("pil", part, rng(1), defect="crack")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 63}, r"size is 63; wanted 64 to 1024 pixels. Set size \(--size\)"),
        ({"size": 1025}, "size is 1025"),
        ({"train_per_kind": 0}, r"train_per_kind is 0; wanted at least 1. Raise .*--train-per-kind"),
        ({"test_normal_per_kind": -1}, "test_normal_per_kind is -1; wanted at least 0"),
        ({"test_anomalous_per_kind": -1}, "test_anomalous_per_kind is -1; wanted at least 0"),
        ({"seed": -1}, r"seed is -1; wanted 0 or more. Set seed \(--seed\)"),
        ({"defect_strength": 0}, "defect_strength is 0.0; wanted a number above 0"),
        ({"defect_strength": float("nan")}, "defect_strength is nan"),
        ({"spoiled_fraction": 0.6}, "spoiled_fraction is 0.6; wanted a share from 0 to 0.5"),
        ({"kinds": ("pill", "pil")}, "kinds has 'pil'; wanted some of .*pill"),
        ({"kinds": ()}, r"kinds is \(\); wanted at least one kind"),
        ({"kinds": ("pill", "pill")}, "each named once"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]
