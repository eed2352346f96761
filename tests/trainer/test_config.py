from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cada_edge.errors import ConfigError
from cada_edge.trainer.config import AlignerConfig, SmoothingConfig, TrainConfig, from_dict, load_yaml


def test_defaults_are_the_papers_recipe() -> None:
    config = TrainConfig()
    assert (config.encoder, config.size, config.iterations, config.batch_size) == (
        "wide_resnet50_2.tv_in1k",
        256,
        5_000,
        16,
    )
    assert (config.learning_rate, config.weight_decay) == (2e-3, 1e-5)
    aligner = config.aligner
    assert (aligner.learning_rate, aligner.momentum, aligner.weight_decay) == (5e-2, 0.9, 1e-4)
    assert (aligner.convolutions, aligner.linears, aligner.hidden, aligner.dropout, aligner.beta) == (
        1,
        2,
        256,
        0.25,
        0.1,
    )


def test_round_trip_through_plain_values() -> None:
    config = TrainConfig(
        size=128, aligner=AlignerConfig(dropout=0.5), smoothing=SmoothingConfig(padding="reflect")
    )
    assert from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iterationz": 3}, r"unknown key iterationz. Did you mean iterations\?"),
        ({"aligner": {"dropuot": 0.1}}, r"unknown key aligner.dropuot. Did you mean aligner.dropout\?"),
        ({"base": "revdits"}, r"base 'revdits' came; wanted one of revdist, .*. Did you mean revdist\?"),
        ({"size": 100}, "size 100 came; wanted a multiple of 32"),
        ({"iterations": 0}, "iterations 0 came; wanted a number above 0. Pass --iterations"),
        ({"learning_rate": "fast"}, "learning_rate 'fast' came; wanted a number, as 1.0e-5. Pass --learning"),
        ({"learning_rate": float("nan")}, "learning_rate nan came; wanted a number, as 1.0e-5"),
        ({"learning_rate": "inf"}, "learning_rate inf came; wanted a number"),
        ({"learning_rate": True}, "learning_rate True came; wanted a number"),
        ({"iterations": 2.5}, "iterations 2.5 came; wanted a whole number. Pass --iterations"),
        ({"iterations": True}, "iterations True came; wanted a whole number"),
        ({"size": "64"}, "size '64' came; wanted a whole number. Pass --size"),
        ({"threads": 1.5}, "threads 1.5 came; wanted a whole number"),
        ({"encoder": None}, "encoder None came; wanted a text. Pass --encoder"),
        ({"encoder_weights": 3}, "encoder_weights 3 came; wanted a text"),
        ({"amp": ["on"]}, r"amp \['on'\] came; wanted a text"),
        ({"aligner": 5}, "aligner 5 came; wanted 'name: value' pairs indented below it"),
        ({"aligner": None}, "aligner None came; wanted 'name: value' pairs indented below it"),
        ({"smoothing": []}, r"smoothing \[\] came; wanted 'name: value' pairs"),
        ({"smoothing": {"sigma": None}}, "smoothing sigma None came; wanted a number"),
        (
            {"aligner": {"momentum": 1}},
            "aligner momentum 1 came; wanted a number from 0, less than 1. Set al",
        ),
        (
            {"aligner": {"weight_decay": -1}},
            "aligner weight_decay -1 came; wanted a number from 0. Set align",
        ),
        ({"weight_decay": -1}, "weight_decay -1 came; wanted a number from 0. Pass --weight-decay"),
        ({"seed": -1}, "seed -1 came; wanted a number from 0 to 4294967295. Pass --seed"),
        ({"seed": 2**32}, "seed 4294967296 came; wanted a number from 0 to 4294967295"),
        ({"false_alarm_rate": 1.0}, "false_alarm_rate 1.0 came"),
        ({"top_fraction": 2}, "top_fraction 2 came; wanted a number from 0.0 to 1.0"),
        ({"threads": 0}, "threads 0 came"),
        ({"compile": "yes"}, "compile 'yes' came; wanted true or false. Pass --compile"),
        ({"compile": 1}, "compile 1 came; wanted true or false"),
        ({"log_every": 0}, "log_every 0 came; wanted a number above 0. Pass --log-every"),
        ({"smoothing": {"kernel": 4}}, "smoothing kernel 4 came; wanted an odd number"),
        ({"smoothing": {"sigma": 0.0}}, "smoothing sigma 0.0 came"),
        ({"smoothing": {"padding": "wrap"}}, "smoothing padding 'wrap' came"),
        ({"aligner": {"kernel": 2}}, "aligner kernel 2 came; wanted 1 or 3"),
        ({"aligner": {"linears": 4}}, "linears 4 came; wanted a number from 1 to 3"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(values)


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("size: 128\naligner:\n  dropout: 0.5\n")
    assert from_dict(load_yaml(path)) == TrainConfig(size=128, aligner=AlignerConfig(dropout=0.5))
    path.write_text("weight_decay: 1e-5\namp: on\ncache_features: off\naligner:\n  beta: 2e-1\n")
    assert from_dict(load_yaml(path)) == TrainConfig(
        weight_decay=1e-5, amp="on", cache_features="off", aligner=AlignerConfig(beta=0.2)
    )
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds a list; wanted 'name: value' pairs"):
        load_yaml(path)
    path.write_bytes("encoder: größe\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"cannot be read: 'utf-8' codec .* Wanted YAML in UTF-8"):
        load_yaml(path)
    path.write_text("a: [\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "missing.yaml")


def test_the_recipe_paper_upsamples_as_the_authors_code_does() -> None:
    assert not TrainConfig().aligns_corners
    assert TrainConfig(recipe="paper").aligns_corners
    assert TrainConfig(upsampling="corners").aligns_corners
    assert not TrainConfig(recipe="paper", upsampling="centred").aligns_corners
