from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from cada_edge.cli_training import BY_BASE
from cada_edge.errors import ConfigError
from cada_edge.trainer.base_method import Sourced, build_base, configure, load_base
from cada_edge.trainer.config import BASES, TrainConfig, from_dict
from cada_edge.trainer.encoders import build_encoder
from cada_edge.trainer.revdist import RevDist


@pytest.mark.parametrize("name", list(BASES))
def test_every_recipe_is_a_configuration_and_names_its_sources(name: str) -> None:
    recipe = load_base(name).RECIPE
    assert all(isinstance(item, Sourced) and item.source for item in recipe.values())
    config = configure({"base": name, "recipe": "paper"})
    for field, sourced in recipe.items():
        outer, _, inner = field.partition(".")
        value = getattr(config, outer)
        assert (getattr(value, inner) if inner else value) == sourced.value


def test_the_help_says_which_defaults_are_the_bases_own() -> None:
    fields = {field for name in BASES for field in load_base(name).RECIPE}
    assert {field for field in fields if "." not in field} == set(BY_BASE)


def test_given_values_win_over_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {
        "iterations": Sourced(7, "x"),
        "aligner.beta": Sourced(10.0, "x"),
        "aligner.hidden": Sourced(8, "x"),
    }
    monkeypatch.setattr(RevDist, "RECIPE", recipe)
    config = configure({"iterations": 3, "aligner": {"beta": 0.5}})
    assert (config.base, config.iterations, config.aligner.beta, config.aligner.hidden) == (
        "revdist",
        3,
        0.5,
        8,
    )
    assert configure({}).iterations == 7
    assert from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": "revdits"}, "base 'revdits' came; wanted one of .*Did you mean revdist"),
        ({"base": 3}, "base 3 came; wanted a text"),
        ({"aligner": 5}, "aligner 5 came; wanted 'name: value' pairs"),
        ({"base_options": 5}, "base_options 5 came; wanted 'name: value' pairs"),
        ({"schedule": "linear"}, "schedule 'linear' came; wanted one of constant, step, cosine"),
        ({"gradient_clip": -1}, "gradient_clip -1 came; wanted a number from 0. Pass --gradient-clip"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(values)


def test_options_reach_the_method() -> None:
    encoder, _ = build_encoder("resnet18", "random")
    config = TrainConfig(size=64, base_options={"tap": "encoder"})
    base = build_base(config, encoder)
    maps, tapped = base(torch.zeros(1, 3, 64, 64))
    assert base.bottleneck_channels == tapped.shape[1] == 256
    assert [tuple(item.shape) for item in maps] == [(1, 16, 16), (1, 8, 8), (1, 4, 4)]
    assert base.map_grid(64) == [(16, 0.0), (8, 0.0), (4, 0.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activatoin": "relu"}, "base_options has 'activatoin'; the base revdist knows activation, tap"),
        (
            {"activation": "tanh"},
            "option activation 'tanh' came; wanted one of relu, gelu. Pass --base-option a",
        ),
        ({"tap": "decoder"}, "option tap 'decoder' came; wanted one of bottleneck, encoder"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    encoder, _ = build_encoder("resnet18", "random")
    with pytest.raises(ConfigError, match=message):
        build_base(dataclasses.replace(TrainConfig(size=64), base_options=options), encoder)


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(ConfigError, match="base 'padim' came; wanted one of revdist"):
        load_base("padim")
