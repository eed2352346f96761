from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from cada_edge.errors import ConfigError
from cada_edge.trainer import pretrain as pretraining
from cada_edge.trainer.pretext import MARKS
from cada_edge.trainer.pretrain import PretrainConfig
from cada_edge.trainer.pretrain_heads import DenseHeads

WEIGHTS = Path(pretraining.__file__).parent / "weights" / "resnet18_procedural.safetensors"
TINY = PretrainConfig(
    steps=6,
    recipes=6,
    realisations=1,
    tile_size=40,
    crop=32,
    batch=2,
    labels=60,
    warmup=2,
    threads=1,
)


def pretrain(config: PretrainConfig, out: Path, watch: Callable[[float], None] | None = None) -> None:
    pretraining.pretrain(config, out, watch=watch, save_every=2, held_out_scenes=2)


def metadata_of(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, object] = json.loads(file.metadata()["pretrain"])
    return metadata


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    config = PretrainConfig(steps=100, warmup=10, fall=0.4, learning_rate=1.0)
    assert config.rate_at(0) == pytest.approx(0.1)
    assert config.rate_at(10) == config.rate_at(60) == 1.0
    assert config.rate_at(80) == pytest.approx(0.5)
    assert config.rate_at(99) == pytest.approx(0.025)


def test_the_constant_part_does_not_depend_on_the_steps() -> None:
    short, long = PretrainConfig(steps=1000), PretrainConfig(steps=5000)
    assert [short.rate_at(step) for step in range(600)] == [long.rate_at(step) for step in range(600)]


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("crop", 100), ("batch", 0)])
def test_impossible_values_are_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{field} is {value}"):
        replace(TINY, **{field: value})


def test_heads_on_constant_features_give_the_loss_of_guessing() -> None:
    heads = DenseHeads(5)
    for parameter in heads.parameters():
        torch.nn.init.zeros_(parameter)
    features = [torch.zeros(1, channels, size, size) for channels, size in ((64, 8), (128, 4), (256, 2))]
    loss = heads.loss(
        torch.zeros(1, 3, 32, 32),
        features,
        torch.zeros(1, 32, 32, dtype=torch.int64),
        torch.zeros(1, len(MARKS), 32, 32),
        picks=torch.Generator().manual_seed(0),
        labels=100,
    )
    guessing = 3 * (torch.log(torch.tensor(5.0)) + len(MARKS) * torch.log(torch.tensor(2.0)))
    torch.testing.assert_close(loss.detach(), guessing)


def test_a_few_steps_lower_the_loss(tmp_path: Path) -> None:
    config = replace(TINY, steps=30, warmup=5)
    losses: list[float] = []
    pretrain(config, tmp_path / "w.safetensors", watch=losses.append)
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors")]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        pretrain(replace(TINY, seed=seed), path)
    first, again, other = (load_file(path) for path in paths)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_a_stopped_run_goes_on_to_the_same_weights_also_with_fewer_steps(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    pretrain(TINY, whole)
    seen: list[float] = []

    def stop_in_the_fourth_step(loss: float) -> None:
        seen.append(loss)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(replace(TINY, steps=50), resumed, watch=stop_in_the_fourth_step)
    assert not resumed.exists()
    pretrain(TINY, resumed, watch=seen.append)
    assert len(seen) == 4 + 4
    expected, found = load_file(whole), load_file(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.safetensors", "whole.safetensors"]


def test_a_save_of_another_run_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    partial = out.with_suffix(".partial.pt")
    state = {"config": {**asdict(TINY), "seed": 9}, "step": 2}
    torch.save(state, partial)
    with pytest.raises(ConfigError, match="saved with another seed"):
        pretrain(TINY, out)
    torch.save({"config": asdict(replace(TINY, steps=8)), "step": 4}, partial)
    with pytest.raises(ConfigError, match="is at step 4 of 8; going on to 6 steps"):
        pretrain(TINY, out)


def test_help_names_the_options() -> None:
    result = CliRunner().invoke(pretraining.main, ["--help"])
    assert result.exit_code == 0
    assert all(option in result.output for option in ("--out", "--steps", "--seed", "--threads"))


@pytest.mark.parametrize("make", ["shipped", "fresh"])
def test_weights_load_into_timm_and_say_how_they_were_made(make: str, tmp_path: Path) -> None:
    path = WEIGHTS if make == "shipped" else tmp_path / "w.safetensors"
    if make == "fresh":
        pretrain(TINY, path)
    encoder = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(1, 2, 3))
    encoder.load_state_dict(load_file(path))
    features = encoder.eval()(torch.zeros(1, 3, 64, 64))
    assert [tuple(feature.shape[1:]) for feature in features] == [(64, 16, 16), (128, 8, 8), (256, 4, 4)]
    assert all(feature.isfinite().all() for feature in features)
    assert path.stat().st_size < 12e6
    metadata = metadata_of(path)
    names = {"architecture", "recipe", "config", "wall_time_s", "held_out", "input", "versions", "date"}
    assert set(metadata) == names
    PretrainConfig(**metadata["config"])  # type: ignore[arg-type]


def test_the_shipped_weights_are_those_of_the_default_recipe_and_have_learnt() -> None:
    metadata = metadata_of(WEIGHTS)
    assert metadata["config"] == asdict(PretrainConfig())
    held_out = metadata["held_out"]
    assert isinstance(held_out, dict)
    chance = 100 / PretrainConfig().recipes
    assert all(held_out[f"stride_{stride}"]["material_top1"] > 100 * chance for stride in (4, 8, 16))
