"""Write a procedural mixed inspection line to disk, in the MVTec AD layout.

Many kinds of parts, textures and objects, smooth and busy, each with its own defects and masks::

    line.json
    <kind>/train/good/000.png
    <kind>/test/good/000.png
    <kind>/test/<defect>/000.png
    <kind>/ground_truth/<defect>/000_mask.png

Every image has its own seed, made from the line's seed, the kind, the split and its index. So a line of
more images, or of more kinds, holds the smaller line's images unchanged.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, OutputError
from cada_edge.trainer.synthetic_defects import DEFECTS, draw_defect
from cada_edge.trainer.synthetic_parts import KINDS, draw_part, photograph_part

__all__ = ["GENERATOR_VERSION", "KINDS", "SyntheticConfig", "write_line"]

GENERATOR_VERSION = 2
"""Raised whenever the same configuration would give other images."""

_LINE_FILE = "line.json"
_TRAIN, _TEST_GOOD, _TEST_DEFECT = 0, 1, 2
_PART_STREAM, _DEFECT_STREAM = 0, 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyntheticConfig:
    """What the line carries."""

    size: int = 256
    """Width and height of the images in pixels, 64 to 1024."""
    train_per_kind: int = 40
    """Good images of each kind to train on, at least 1."""
    test_normal_per_kind: int = 12
    """Good images of each kind to test on."""
    test_anomalous_per_kind: int = 12
    """Defective images of each kind to test on; the kind's defects take turns."""
    seed: int = 0
    """Seed of the whole line, not negative."""
    kinds: tuple[str, ...] = KINDS
    """Which kinds of parts run on the line."""
    defect_strength: float = 3.5
    """Amplitude of the defects, as a multiple of what a person just sees on that kind of part: at 1 one must
    search, at 3.5 a second look is enough. Not frozen yet: see `cada_edge.benchmarks.line_criteria`."""

    spoiled_fraction: float = 0.0
    """Share of each kind's training images that have a defect all the same, 0 to 0.5, as where bad parts went
    unnoticed; the other images stay as they are without."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        object.__setattr__(self, "spoiled_fraction", float(self.spoiled_fraction))
        object.__setattr__(self, "defect_strength", float(self.defect_strength))
        if not 64 <= self.size <= 1024:
            raise ConfigError(f"size is {self.size}; wanted 64 to 1024 pixels. Set size (--size), e.g. 256.")
        for name, least in (
            ("train_per_kind", 1),
            ("test_normal_per_kind", 0),
            ("test_anomalous_per_kind", 0),
        ):
            count = getattr(self, name)
            if count < least:
                flag = name.replace("_", "-")
                raise ConfigError(f"{name} is {count}; wanted at least {least}. Raise {name} (--{flag}).")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; wanted 0 or more. Set seed (--seed), e.g. 0.")
        if not 0 < self.defect_strength < float("inf"):
            raise ConfigError(
                f"defect_strength is {self.defect_strength}; wanted a number above 0. "
                "Set defect_strength (--defect-strength), e.g. 3.5."
            )
        if not 0 <= self.spoiled_fraction <= 0.5:
            raise ConfigError(
                f"spoiled_fraction is {self.spoiled_fraction}; wanted a share from 0 to 0.5. "
                "Set spoiled_fraction (--spoiled-fraction), e.g. 0.1."
            )
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise ConfigError(
                f"kinds has {', '.join(map(repr, unknown))}; wanted some of {', '.join(KINDS)}. "
                "Correct kinds (--kinds)."
            )
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(
                f"kinds is {self.kinds}; wanted at least one kind, each named once. Correct kinds (--kinds)."
            )


@dataclass(frozen=True)
class _Shot:
    """One image of the line before it is drawn."""

    kind: str
    split: int
    index: int
    image_file: Path
    defect: str | None = None
    mask_file: Path | None = None


def write_line(
    out: Path, config: SyntheticConfig, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Draw the line into the folder `out`, or find it there already drawn.

    The folder appears complete or not at all. The same configuration gives the same bytes again; where a
    processor or an OpenCV rounds otherwise, a few pixels of the line may differ, mostly by one grey level.

    Args:
        out: A folder that is absent, empty, or holds the line of exactly this configuration.
        config: What to draw.
        progress: Called after each drawn part with the number done and the number of all.

    Returns:
        The folder's absolute path.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
    """
    out = Path(out).absolute()
    shots = list(_shots(config))
    if _is_drawn(out, config, shots):
        _log.info("the line in %s is already drawn", out)
        return out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.parent / f".{out.name}-{secrets.token_hex(4)}"
        draft.mkdir()
        try:
            for done, shot in enumerate(shots, start=1):
                _draw_shot(draft, shot, config)
                if progress is not None:
                    progress(done, len(shots))
            (draft / _LINE_FILE).write_text(json.dumps(_description(config), indent=2) + "\n", "utf-8")
            if out.exists():
                out.rmdir()
            draft.replace(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"the line could not be written to {out}: {error.strerror or error}; wanted a folder that can be "
            "written, with room for it. Choose another folder (--out) or free some space."
        ) from error
    return out


def _shots(config: SyntheticConfig) -> Iterator[_Shot]:
    for kind in config.kinds:
        names = list(DEFECTS[kind])
        spoiled = _spoiled(config)
        for index in range(config.train_per_kind):
            image_file = Path(kind, "train", "good", f"{index:03d}.png")
            defect = names[spoiled.index(index) % len(names)] if index in spoiled else None
            yield _Shot(kind, _TRAIN, index, image_file, defect)
        for index in range(config.test_normal_per_kind):
            yield _Shot(kind, _TEST_GOOD, index, Path(kind, "test", "good", f"{index:03d}.png"))
        for index in range(config.test_anomalous_per_kind):
            defect, number = names[index % len(names)], index // len(names)
            image_file = Path(kind, "test", defect, f"{number:03d}.png")
            mask_file = Path(kind, "ground_truth", defect, f"{number:03d}_mask.png")
            yield _Shot(kind, _TEST_DEFECT, index, image_file, defect, mask_file)


def _spoiled(config: SyntheticConfig) -> list[int]:
    """Choose the training images of each kind that have a defect: evenly spread."""
    count = round(config.spoiled_fraction * config.train_per_kind)
    return [position * config.train_per_kind // count for position in range(count)]


def _draw_shot(folder: Path, shot: _Shot, config: SyntheticConfig) -> None:
    if shot.defect is None:
        image = draw_part(shot.kind, _generator(config, shot, _PART_STREAM), config.size)
        _write_png(folder / shot.image_file, image)
        return
    part = photograph_part(shot.kind, _generator(config, shot, _PART_STREAM), config.size)
    defective = draw_defect(
        shot.kind,
        part,
        _generator(config, shot, _DEFECT_STREAM),
        defect=shot.defect,
        strength=config.defect_strength,
    )
    _write_png(folder / shot.image_file, defective.image)
    if shot.mask_file is not None:
        _write_png(folder / shot.mask_file, defective.mask)


def _generator(config: SyntheticConfig, shot: _Shot, stream: int) -> np.random.Generator:
    """Return the random generator of one image: it depends on nothing but the image's own place."""
    kind = zlib.crc32(shot.kind.encode())
    return np.random.default_rng(np.random.SeedSequence((config.seed, kind, shot.split, shot.index, stream)))


def _is_drawn(out: Path, config: SyntheticConfig, shots: list[_Shot]) -> bool:
    """Return True if the line is there, False if the place is free; anything else is an error."""
    if out.is_file():
        raise OutputError(f"{out} is a file; wanted a folder for the line. Choose another folder (--out).")
    if not out.exists() or not any(out.iterdir()):
        return False
    try:
        found = json.loads((out / _LINE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        found = None
    if found != _description(config):
        what = f"has no readable {_LINE_FILE}" if found is None else "holds a line of another configuration"
        raise OutputError(
            f"{out} is not empty and {what}; wanted a free folder or the line of this configuration. "
            "Choose another folder (--out) or delete this one."
        )
    wanted = {shot.image_file for shot in shots} | {shot.mask_file for shot in shots if shot.mask_file}
    present = {path.relative_to(out) for path in out.rglob("*.png")}
    if present != wanted:
        raise OutputError(
            f"the line in {out} has {len(present)} PNG files, {len(wanted - present)} are missing and "
            f"{len(present - wanted)} do not belong; wanted the {len(wanted)} that {_LINE_FILE} stands for. "
            "Delete the folder and draw it again."
        )
    return True


def _description(config: SyntheticConfig) -> dict[str, object]:
    return {
        "generator_version": GENERATOR_VERSION,
        "config": {**asdict(config), "kinds": list(config.kinds)},
    }


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    done, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise OutputError(
            f"{path.name} of shape {image.shape} was not encoded; wanted a PNG. Check OpenCV's build."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())
