"""What the README shows is run: its Python blocks as they stand, its commands on a small model."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cada_edge.cli import main

README = Path(__file__).parent.parent / "README.md"


def _block(kind: str, name: str) -> str:
    """Return the fenced block that follows a comment such as <!-- runs: stream -->."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {kind}: {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"no block '{kind}: {name}' in README.md"
    return found.group(1)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks as after `make demo`, with a model of a few training steps."""
    pytest.importorskip("torch", reason="the demo trains: pip install 'cada-edge[train]'")
    from cada_edge.benchmarks.demo import DemoConfig, run_demo

    folder = tmp_path_factory.mktemp("readme")
    config = DemoConfig(
        size=64,
        iterations=2,
        aligner_iterations=20,
        encoder="resnet18",
        encoder_weights="random",
        train_per_kind=3,
        test_per_kind=1,
        require_gain=False,
    )
    run_demo(folder / "demo", config)
    for part, source in (("normal", "train/good"), ("anomalous", "test")):
        for kind in ("gear", "pill"):
            shutil.copytree(folder / "demo" / "line" / kind / source, folder / "parts" / part / kind)
    for kind in ("gear", "pill"):
        shutil.rmtree(folder / "parts" / "anomalous" / kind / "good")
    shutil.copytree(folder / "parts" / "normal", folder / "new_good_parts")
    shutil.copytree(folder / "parts" / "normal", folder / "frames")
    return folder


@pytest.mark.parametrize("name", ["stream", "camera"])
def test_python_blocks_run(
    name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    exec(compile(_block("runs", name), f"README.md, {name}", "exec"), {"__name__": "__main__"})
    if name == "stream":
        # Two trained steps give other scores than the demo's; the lines have the same form.
        form = re.compile(r"\w+ +score -?[\d.]+ > -?[\d.]+|one threshold for every kind of part: True")
        for row in (*capsys.readouterr().out.splitlines(), *_block("output", name).splitlines()):
            assert form.fullmatch(row), row


def test_commands_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    Path("small.yaml").write_text(
        "encoder: resnet18\nencoder_weights: random\nsize: 64\n"
        "iterations: 2\nbatch_size: 4\naligner:\n  iterations: 10\n"
    )
    rows = _block("runs", "commands").splitlines()
    commands = [shlex.split(row.removeprefix("$ "), comments=True) for row in rows]
    names = [command[1] for command in commands]
    assert names == ["train", "export", "eval", "calibrate", "verify", "predict"]
    for command in commands:
        small = ["--config", "small.yaml", "--holdout-fraction", "0.2"] if command[1] == "train" else []
        result = CliRunner().invoke(main, command[1:] + small)
        assert result.exit_code == 0, (command, result.output, result.exception)
    assert len(list(Path("annotated").iterdir())) == 6


def test_every_command_that_is_shown_exists() -> None:
    shown = set(re.findall(r"\$ cada-edge (\w+)", README.read_text(encoding="utf-8")))
    assert shown <= set(main.commands)


def test_the_pictures_are_there() -> None:
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).is_file(), target


def test_the_links_are_there() -> None:
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).is_file(), target
