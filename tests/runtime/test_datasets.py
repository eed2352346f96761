from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import ConfigError, DatasetError, ImageReadError
from cada_edge.runtime.datasets import (
    LAYOUTS,
    DatasetIndex,
    Sample,
    check_images,
    fingerprint,
    index_dataset,
    load_images,
    require_training_images,
)
from cada_edge.runtime.images import read_image, read_mask
from cada_edge.runtime.preprocess import preprocess

PutImage = Callable[..., Path]


def by_name(index: DatasetIndex) -> dict[str, Sample]:
    return {sample.relative: sample for sample in index.samples}


def counts(index: DatasetIndex) -> dict[str, int]:
    return Counter(
        f"{sample.category} {sample.split} {sample.defect} {'mask' if sample.mask else '-'}"
        for sample in index.samples
    )


# The layouts.


def test_mvtec(mvtec_root: Path) -> None:
    index = index_dataset(mvtec_root)
    assert index.layout == "mvtec"
    assert index.categories == ("Schraube grün", "bottle")
    assert counts(index) == {
        f"{category} {kind}": count
        for category in index.categories
        for kind, count in {
            "train good -": 3,
            "test good -": 1,
            "test scratch mask": 4,
            "test dent mask": 1,
        }.items()
    }
    assert len(index) == 18
    assert [len(index.train), len(index.test)] == [6, 12]
    assert [sample.relative for sample in index.samples] == sorted(by_name(index))
    assert all(sample.image == mvtec_root / sample.relative for sample in index.samples)
    assert all(sample.anomalous == (sample.defect != "good") for sample in index.samples)
    check_images(index.samples)


def test_masks_are_paired_by_stem_not_by_position(mvtec_root: Path) -> None:
    folder = mvtec_root / "bottle/ground_truth/scratch"
    pairs = {
        sample.image.name: sample.mask and sample.mask.relative_to(folder).name
        for sample in index_dataset(mvtec_root).samples
        if sample.category == "bottle" and sample.defect == "scratch"
    }
    assert pairs == {
        "10.png": "10_mask.png",
        "2.png": "2_mask.png",
        "2B.png": "2B_mask.PNG",
        "3.png": "3.png",
    }
    assert list(pairs.values()) != sorted(pairs.values(), key=str)


def test_one_category_alone_is_a_data_set(mvtec_root: Path, btad_root: Path) -> None:
    index = index_dataset(mvtec_root / "Schraube grün")
    assert (index.layout, index.categories, len(index)) == ("mvtec", ("Schraube grün",), 9)
    assert index.samples[0].relative == "test/dent/000.JPG"
    assert index_dataset(btad_root / "03").categories == ("03",)


def test_a_relative_root_still_names_its_category(mvtec_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mvtec_root / "bottle")
    assert index_dataset(".").categories == ("bottle",)


def test_visa(visa_root: Path) -> None:
    index = index_dataset(visa_root)
    assert index.layout == "visa"
    assert counts(index) == {
        f"{category} {kind}": count
        for category in ("candle", "pcb1")
        for kind, count in {"train good -": 3, "test good -": 1, "test anomaly mask": 2}.items()
    }
    mask = by_name(index)["candle/Data/Images/Anomaly/001.JPG"].mask
    assert mask == visa_root / "candle/Data/Masks/Anomaly/001.png"
    assert mask is not None
    # Label 3 of 255 is an anomaly like any other.
    assert read_mask(mask).sum() == 9


def test_visa_converted_with_and_without_its_level(visa_converted_root: Path) -> None:
    index = index_dataset(visa_converted_root)
    assert index.layout == "visa-mvtec"
    assert counts(index) == {
        f"{category} {kind}": count
        for category in ("candle", "pcb1")
        for kind, count in {"train good -": 3, "test good -": 1, "test bad mask": 2}.items()
    }
    assert index.samples[0].relative == "1cls/candle/test/bad/000.JPG"

    inner = index_dataset(visa_converted_root / "1cls")
    assert (inner.layout, counts(inner)) == ("visa-mvtec", counts(index))
    assert inner.samples[0].relative == "candle/test/bad/000.JPG"


def test_btad(btad_root: Path) -> None:
    index = index_dataset(btad_root)
    assert index.layout == "btad"
    assert counts(index) == {
        f"{category} {kind}": count
        for category in ("01", "02", "03")
        for kind, count in {"train good -": 3, "test good -": 1, "test ko mask": 2}.items()
    }
    masks = [by_name(index)[f"{name}"].mask for name in ("01/test/ko/0007.bmp", "03/test/ko/0012.BMP")]
    assert [mask and mask.relative_to(btad_root).as_posix() for mask in masks] == [
        "01/ground_truth/ko/0007.png",
        "03/ground_truth/ko/0012.bmp",
    ]
    check_images(index.samples)


def test_plain_folder(folder_root: Path) -> None:
    index = index_dataset(folder_root)
    assert index.layout == "folder"
    found = {s.relative: (s.category, s.defect, s.mask and s.mask.name) for s in index.samples}
    assert found == {
        "anomalous/gear/bent tooth/a.png": ("gear", "bent tooth", "a.png"),
        "anomalous/scratch/a.png": ("part", "scratch", "a_mask.bmp"),
        "anomalous/x.png": ("part", "anomalous", None),
        "normal/gear/a.jpeg": ("gear", "good", None),
        "normal/gear/monday/deep/b.TIFF": ("gear", "good", None),
        "normal/loose.png": ("part", "good", None),
        "normal/naïve 部品/c.webp": ("naïve 部品", "good", None),
    }
    assert [len(index.train), len(index.test)] == [4, 3]
    assert not any(sample.anomalous for sample in index.train)
    assert all(sample.anomalous for sample in index.test)


def test_plain_folder_with_normal_test_images(folder_root: Path, put_image: PutImage) -> None:
    before = index_dataset(folder_root)
    for name in ("gear/a.png", "gear/tuesday/b.png", "nut/a.png", "loose.png", ".hidden/c.png"):
        put_image(folder_root / "test_normal" / name)
    index = index_dataset(folder_root)
    assert index.train == before.train
    added = [sample for sample in index.samples if sample not in before.samples]
    assert {(s.relative, s.category, s.split, s.anomalous, s.defect, s.mask) for s in added} == {
        ("test_normal/gear/a.png", "gear", "test", False, "good", None),
        ("test_normal/gear/tuesday/b.png", "gear", "test", False, "good", None),
        ("test_normal/loose.png", "part", "test", False, "good", None),
        ("test_normal/nut/a.png", "part", "test", False, "good", None),
    }
    put_image(folder_root / "test_normal/loose.bmp")
    with pytest.raises(DatasetError, match=r"names that come twice: test_normal/loose\.bmp and loose\.png"):
        index_dataset(folder_root)


def test_plain_folder_of_normal_images_only(tmp_path: Path, put_image: PutImage) -> None:
    put_image(tmp_path / "normal/a.png")
    put_image(tmp_path / "normal/.hidden/b.png")
    index = index_dataset(tmp_path)
    assert (len(index.train), index.test, index.categories) == (1, (), ("part",))


def test_linked_folders_are_followed_once(tmp_path: Path, put_image: PutImage) -> None:
    put_image(tmp_path / "archive/b.png")
    put_image(tmp_path / "parts/normal/a.png")
    (tmp_path / "parts/normal/linked").symlink_to(tmp_path / "archive", target_is_directory=True)
    (tmp_path / "parts/normal/loop").symlink_to(tmp_path / "parts/normal", target_is_directory=True)
    index = index_dataset(tmp_path / "parts")
    assert [sample.relative for sample in index.samples] == ["normal/a.png", "normal/linked/b.png"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_named_layout_reads_as_the_detected_one(layout: str, request: pytest.FixtureRequest) -> None:
    fixture = {"visa-mvtec": "visa_converted"}.get(layout, layout)
    root = request.getfixturevalue(f"{fixture}_root")
    assert index_dataset(str(root), layout=layout) == index_dataset(root)
    assert index_dataset(root).layout == layout


def test_the_repr_fits_one_line(mvtec_root: Path) -> None:
    text = repr(index_dataset(mvtec_root))
    assert "mvtec" in text
    assert "Sample" not in text


# What does not fit.


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"layout 'mvtech' is unknown; wanted auto, mvtec, visa.*Choose one"
    ):
        index_dataset(tmp_path, layout="mvtech")


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone is not there; wanted a folder"):
        index_dataset(tmp_path / "gone")
    (tmp_path / "mvtec.tar.xz").touch()
    with pytest.raises(DatasetError, match=r"mvtec\.tar\.xz is a file; wanted a folder.*unpack"):
        index_dataset(tmp_path / "mvtec.tar.xz")


@pytest.mark.parametrize("root", [None, 7, b"parts"])
def test_what_is_no_path_is_refused(root: Any) -> None:
    with pytest.raises(DatasetError, match=r"of type \w+; wanted the path of a folder\. Give the folder"):
        index_dataset(root)


def test_a_root_that_cannot_be_asked_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which of the two depends on the version of Python.
    with pytest.raises(DatasetError, match=r"(File name too long\. W|is not there; w)anted (a )?folder"):
        index_dataset(tmp_path / ("a" * 300))

    def refuse(path: Path, **options: object) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    # Root may enter every folder: the refusal is made where pathlib asks.
    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(DatasetError, match=r"parts: Permission denied\. Wanted folders .*permissions"):
        index_dataset(tmp_path / "parts")


def test_a_folder_of_no_layout_is_described(tmp_path: Path, put_image: PutImage) -> None:
    with pytest.raises(DatasetError, match="holds nothing, which fits no data set layout"):
        index_dataset(tmp_path)
    for number in range(7):
        put_image(tmp_path / f"{number}.png")
    (tmp_path / "0_notes").mkdir()
    wanted = (
        r"holds 0\.png, 0_notes/, 1\.png, 2\.png, 3\.png and 3 more, .* Wanted one of: mvtec \(<category>"
        r"/train/good.*visa \(split_csv.*visa-mvtec .*btad .*folder \(normal/ .*test_normal/"
        r".*Put images of good parts"
    )
    with pytest.raises(DatasetError, match=wanted):
        index_dataset(tmp_path)


def test_a_folder_one_level_too_high_is_told_the_right_one(mvtec_root: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds mvtec/, which fits no .*Did you mean .*mvtec\?"):
        index_dataset(mvtec_root.parent)


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [("mvtec", "train/good"), ("btad", "train/ok"), ("visa", "split_csv/1cls.csv"), ("folder", "normal/")],
)
def test_a_named_layout_that_does_not_fit_is_described(tmp_path: Path, layout: str, wanted: str) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DatasetError, match=rf"holds photos/; wanted the layout {layout}: .*{wanted}.*'auto'"):
        index_dataset(tmp_path, layout=layout)


def test_a_category_without_normal_images_is_named(mvtec_root: Path) -> None:
    shutil.rmtree(mvtec_root / "bottle/train/good")
    with pytest.raises(
        DatasetError, match=r"category bottle of .* has no folder train/good; wanted them there"
    ):
        index_dataset(mvtec_root)


def test_empty_folders_are_named(mvtec_root: Path) -> None:
    for image in (mvtec_root / "bottle/train/good").glob("0*"):
        image.unlink()
    (mvtec_root / "Schraube grün/test/hole").mkdir()
    wanted = (
        r"without images, 2 in all: Schraube grün/test/hole, bottle/train/good\. Wanted .*Copy them again"
    )
    with pytest.raises(DatasetError, match=wanted):
        index_dataset(mvtec_root)


def test_an_empty_normal_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "normal/gear").mkdir(parents=True)
    (tmp_path / "normal/Thumbs.db").touch()
    with pytest.raises(
        DatasetError, match=r"normal holds no image; wanted images of good parts.*Put some there"
    ):
        index_dataset(tmp_path)


def test_missing_masks_are_counted_and_five_are_named(mvtec_root: Path, put_image: PutImage) -> None:
    (mvtec_root / "bottle/ground_truth/dent/000_mask.png").unlink()
    with pytest.raises(
        DatasetError, match=r"without mask, 1 in all: bottle/test/dent/000\.JPG\. Wanted ground_truth/"
    ):
        index_dataset(mvtec_root)
    # A whole category without ground truth is still a gap in a data set that has some.
    for number in range(6):
        put_image(mvtec_root / f"nut/test/crack/{number}.png")
    put_image(mvtec_root / "nut/train/good/0.png")
    with pytest.raises(
        DatasetError, match=r"7 in all: bottle/test/dent/000\.JPG, .*crack/3\.png and 2 more\. .*Add"
    ):
        index_dataset(mvtec_root)


def test_a_mask_at_the_right_position_with_the_wrong_stem_is_no_mask(mvtec_root: Path) -> None:
    folder = mvtec_root / "bottle/ground_truth/scratch"
    (folder / "2_mask.png").rename(folder / "2_old.png")
    with pytest.raises(DatasetError, match=r"1 in all: bottle/test/scratch/2\.png\."):
        index_dataset(mvtec_root)


def test_a_data_set_without_any_ground_truth_has_no_masks(mvtec_root: Path) -> None:
    for category in ("bottle", "Schraube grün"):
        shutil.rmtree(mvtec_root / category / "ground_truth")
    index = index_dataset(mvtec_root)
    assert sum(sample.anomalous for sample in index.test) == 10
    assert not any(sample.mask for sample in index.test)


def test_two_masks_for_one_image_are_refused(mvtec_root: Path, put_mask: PutImage) -> None:
    put_mask(mvtec_root / "bottle/ground_truth/dent/000.png")
    with pytest.raises(
        DatasetError, match=r"two masks for one image: .*dent/000_mask\.png, .*dent/000\.png\. Wanted"
    ):
        index_dataset(mvtec_root)


@pytest.mark.parametrize(
    "name", ["train/good/001.jpg", "test/dent/000.png", "ground_truth/dent/000_mask.BMP"]
)
def test_names_that_come_twice_are_refused(mvtec_root: Path, put_image: PutImage, name: str) -> None:
    put_image(mvtec_root / "bottle" / name)
    with pytest.raises(
        DatasetError, match=rf"1 names that come twice: .*{Path(name).stem}\.\w+ and .*one file per stem"
    ):
        index_dataset(mvtec_root)


def test_the_same_stem_in_two_folders_is_no_clash(folder_root: Path, put_image: PutImage) -> None:
    put_image(folder_root / "normal/nut/a.png")
    assert len(index_dataset(folder_root)) == 8
    put_image(folder_root / "normal/nut/a.bmp")
    with pytest.raises(DatasetError, match=r"normal/nut/a\.bmp and a\.png"):
        index_dataset(folder_root)


def test_masks_without_image_are_refused_in_a_plain_folder(folder_root: Path, put_mask: PutImage) -> None:
    put_mask(folder_root / "masks/x2.png")
    put_mask(folder_root / "masks/a.png")
    with pytest.raises(
        DatasetError, match=r"masks without image, 2 in all: masks/a\.png, masks/x2\.png\. Wanted each"
    ):
        index_dataset(folder_root)


def test_anomalous_training_images_are_refused(
    mvtec_root: Path, btad_root: Path, put_image: PutImage
) -> None:
    put_image(mvtec_root / "bottle/train/bad/0.png")
    with pytest.raises(
        DatasetError, match=r"anomalous images to train on.*\(bottle/train/bad\).*train/good alone"
    ):
        index_dataset(mvtec_root)
    put_image(btad_root / "02/train/ko/0.png")
    with pytest.raises(DatasetError, match=r"\(02/train/ko\); wanted normal ones only\. Use train/ok alone"):
        index_dataset(btad_root)


def test_visas_2cls_splits_are_refused(visa_root: Path, visa_converted_root: Path) -> None:
    (visa_root / "split_csv/1cls.csv").unlink()
    wanted = (
        r"as VisA's 2cls splits have \(2cls_fewshot\.csv, 2cls_highshot\.csv\).*Use the official.*1cls\.csv"
    )
    with pytest.raises(DatasetError, match=wanted):
        index_dataset(visa_root)
    (visa_root / "split_csv/2cls_highshot.csv").rename(visa_root / "split_csv/1cls.csv")
    with pytest.raises(DatasetError, match=r"anomalous images to train on.*\(line 6 of 1cls\.csv\)"):
        index_dataset(visa_root)

    (visa_converted_root / "1cls").rename(visa_converted_root / "2cls_highshot")
    with pytest.raises(DatasetError, match=r"\(2cls_highshot\).*Use the official split, in a folder 1cls"):
        index_dataset(visa_converted_root)


def edit_table(root: Path, old: str, new: str) -> None:
    table = root / "split_csv/1cls.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (
            "object,split,label",
            "category,split,label",
            r"columns category, split.*wanted object.*missing: object\)",
        ),
        (
            "candle,train",
            "candle,val",
            r"Line 2 of .*1cls\.csv has split 'val' and label 'normal'; wanted train or test",
        ),
        ("test,normal", "test,good", r"Line 5 .*label 'good'; wanted .*normal or anomaly\. Correct the line"),
        (
            "Normal/0001.JPG",
            "Normal/0001.jpg",
            r"files that are not there, 1 in all: candle/Data/Images/Normal/0001\.jpg",
        ),
        (
            "Masks/Anomaly/000",
            "Masks/Anomaly/900",
            r"1 in all: candle/Data/Masks/Anomaly/900\.png\. Wanted all of them",
        ),
        ("candle/Data/Images/Normal/0000.JPG", "", r"files that are not there, 1 in all"),
        ("candle/Data/Images/Normal/0000.JPG", "../a.JPG", r"1 in all: \.\./a\.JPG"),
        (
            "candle/Data/Masks/Anomaly/001.png",
            "",
            r"without mask, 1 in all: candle/Data/Images/Anomaly/001\.JPG",
        ),
        (
            "Normal/0001.JPG",
            "Normal/0000.JPG",
            r"names 11 images, 1 of them more than once: candle.*0000\.JPG",
        ),
    ],
)
def test_a_faulty_visa_table_is_explained(visa_root: Path, old: str, new: str, wanted: str) -> None:
    (visa_root.parent / "a.JPG").touch()
    edit_table(visa_root, old, new)
    with pytest.raises(DatasetError, match=wanted):
        index_dataset(visa_root)


def test_visa_without_any_mask_is_read(visa_root: Path) -> None:
    table = visa_root / "split_csv/1cls.csv"
    table.write_text(re.sub(r",[^,]+\.png$", ",", table.read_text(), flags=re.MULTILINE))
    index = index_dataset(visa_root)
    assert sum(sample.anomalous for sample in index.test) == 4
    assert not any(sample.mask for sample in index.test)


def test_an_unreadable_visa_table_is_explained(visa_root: Path) -> None:
    table = visa_root / "split_csv/1cls.csv"
    table.write_bytes(b"object,split,label,image,mask\n\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"1cls\.csv is no csv file .*copy it again"):
        index_dataset(visa_root)
    table.write_text("")
    with pytest.raises(DatasetError, match=r"has the columns none; wanted object"):
        index_dataset(visa_root)
    table.write_text("object,split,label,image,mask\n")
    with pytest.raises(DatasetError, match=r"names 0 images, 0 of them more than once\. Wanted at least one"):
        index_dataset(visa_root)
    table.rename(table.with_name("mine.csv"))
    for other in table.parent.glob("2cls*"):
        other.unlink()
    with pytest.raises(DatasetError, match=r"split_csv has no 1cls\.csv; wanted the official"):
        index_dataset(visa_root)


def test_visas_table_may_have_a_byte_order_mark_and_windows_lines(visa_root: Path) -> None:
    table = visa_root / "split_csv/1cls.csv"
    before = index_dataset(visa_root)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert index_dataset(visa_root) == before


def test_a_folder_that_may_not_be_listed_is_named(folder_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may list every folder, so that taking the permission away would prove nothing in a container.
    scan = os.scandir

    def refuse_gear(path: str) -> object:
        if Path(path).name == "gear":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse_gear)
    wanted = r"Cannot read .*gear of the data set .*: Permission denied\. Wanted folders .*Check the path"
    with pytest.raises(DatasetError, match=wanted):
        index_dataset(folder_root, layout="folder")


# Reading.


def test_training_needs_two_images(tmp_path: Path, put_image: PutImage) -> None:
    put_image(tmp_path / "normal/a.png")
    index = index_dataset(tmp_path)
    wanted = r"\(layout folder\) has 1 normal training images; wanted at least 2, .*Add images of good parts"
    with pytest.raises(DatasetError, match=wanted):
        require_training_images(index)
    require_training_images(index, minimum=1)
    with pytest.raises(DatasetError, match=r"has 0 normal training images; wanted at least 2"):
        require_training_images(DatasetIndex(tmp_path, "folder", ()))


def test_damaged_images_and_masks_are_counted_and_named(mvtec_root: Path) -> None:
    samples = index_dataset(mvtec_root).samples
    seen: list[tuple[int, int]] = []
    check_images(samples, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(done, 18) for done in range(1, 19)]

    image = mvtec_root / "bottle/train/good/001.png"
    image.write_bytes(image.read_bytes()[:-20])
    (mvtec_root / "bottle/ground_truth/dent/000_mask.png").write_text("no image")
    wanted = r"cannot be read, 2 in all: .*dent/000_mask\.png, .*good/001\.png\. Wanted .*Copy them again"
    with pytest.raises(DatasetError, match=wanted):
        check_images(samples)
    for sample in samples:
        sample.image.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"cannot be read, 19 in all: .*and 14 more\."):
        check_images(samples)


def test_the_fingerprint_is_of_names_and_contents(mvtec_root: Path, tmp_path: Path) -> None:
    samples = index_dataset(mvtec_root).samples
    lines = "".join(f"{s.relative}\0{hashlib.sha256(s.image.read_bytes()).hexdigest()}\0" for s in samples)
    first = fingerprint(samples)
    assert first == hashlib.sha256(lines.encode()).hexdigest()
    assert fingerprint(samples[::-1]) == first

    copy = index_dataset(shutil.copytree(mvtec_root, tmp_path / "elsewhere"))
    assert fingerprint(copy.samples) == first
    assert fingerprint(copy.samples[1:]) != first
    copy.samples[0].image.write_bytes(copy.samples[1].image.read_bytes())
    assert fingerprint(copy.samples) != first
    copy.samples[0].image.unlink()
    with pytest.raises(DatasetError, match=r"Cannot read the image .*000\.JPG: No such file.*Check"):
        fingerprint(copy.samples)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are Unicode")
def test_names_that_are_not_utf8(tmp_path: Path, put_image: PutImage) -> None:
    folder = tmp_path / "normal" / os.fsdecode(b"Schl\xfcssel")
    for number in range(12):
        put_image(folder / os.fsdecode(b"gr\xfcn%d.png" % number), value=number)
    index = index_dataset(tmp_path)
    check_images(index.samples)
    entries = (
        os.fsencode(s.relative) + b"\0" + hashlib.sha256(s.image.read_bytes()).hexdigest().encode() + b"\0"
        for s in index.samples
    )
    assert fingerprint(index.samples) == hashlib.sha256(b"".join(entries)).hexdigest()
    assert len(load_images([sample.image for sample in index.samples], (8, 8))) == 12


def test_loaded_images_are_the_preprocessed_frames_in_order(tmp_path: Path, put_image: PutImage) -> None:
    sizes = [(12, 10), (40, 33), (7, 91), (16, 24)]
    paths = [put_image(tmp_path / f"{9 - k}.png", value=40 * k, size_hw=size) for k, size in enumerate(sizes)]
    images = load_images(paths, (16, 24))
    assert images.shape == (4, 16, 24, 3)
    assert images.dtype == np.uint8
    for path, image in zip(paths, images, strict=True):
        np.testing.assert_array_equal(image, preprocess(read_image(path), (16, 24)))
    assert load_images([], (16, 24)).shape == (0, 16, 24, 3)


def test_loading_names_the_first_unreadable_file(tmp_path: Path, put_image: PutImage) -> None:
    paths = [put_image(tmp_path / f"{number}.png") for number in range(6)]
    for number in (2, 4):
        paths[number].write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"2\.png is empty"):
        load_images(paths, (8, 8))
