"""What is packaged: the folders on disk, the wheel's content, and what an installation puts on the path."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tomli

import cada_edge

ROOT = Path(__file__).resolve().parents[1]
SUB_PACKAGES = ("benchmarks", "export", "runtime", "trainer")
# Tracked beside the code, read in the repository, and of no use to an installation.
NOT_SHIPPED = ("*.md", "benchmarks/*.json", "benchmarks/*.csv", "benchmarks/*.png", "benchmarks/*.svg")
SHIPPED = ("benchmarks/paper_tables.json",)  # read by a command


def _pyproject() -> dict[str, Any]:
    return tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def setuptools_table() -> dict[str, Any]:
    """`[tool.setuptools]` of pyproject.toml."""
    table: dict[str, Any] = _pyproject()["tool"]["setuptools"]
    return table


@pytest.fixture(scope="module")
def tracked(require_system: Callable[..., None]) -> list[str]:
    """Every file in git's index, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: an unpacked archive has no list of files")
    require_system("git")
    # A checkout that belongs to another user, as in a container, is refused without safe.directory.
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name]


def _copy_of_the_project(folder: Path) -> Path:
    """Copy what is packaged, so that a build finds no left-over of an earlier one and leaves none."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("cada_edge", "docs", "examples", *SUB_PACKAGES):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built as `make build` does it: from the sdist."""
    project = _copy_of_the_project(tmp_path_factory.mktemp("project"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(project / "dist")]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (project / "dist").glob("*.whl")
    return built


def test_the_packages_are_those_on_disk(setuptools_table: dict[str, Any]) -> None:
    on_disk = {
        ".".join(("cada_edge", *file.parent.relative_to(ROOT).parts))
        for name in SUB_PACKAGES
        for file in (ROOT / name).rglob("*.py")
    }
    assert set(setuptools_table["packages"]) == on_disk | {"cada_edge"}


def test_no_package_is_left_out_of_the_list() -> None:
    with_code = {folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").exists()}
    assert with_code == {"cada_edge", *SUB_PACKAGES}


def test_each_package_has_its_folder(setuptools_table: dict[str, Any]) -> None:
    packages = setuptools_table["packages"]
    folders = [name.removeprefix("cada_edge.").replace(".", "/") for name in packages]
    assert setuptools_table["package-dir"] == dict(zip(packages, folders, strict=True))


def test_the_links_are_those_of_package_dir(setuptools_table: dict[str, Any]) -> None:
    links = {link.name: str(link.readlink()) for link in (ROOT / "cada_edge").iterdir() if link.is_symlink()}
    top_level = {folder for folder in setuptools_table["package-dir"].values() if "/" not in folder}
    assert links == {folder: f"../{folder}" for folder in top_level - {"cada_edge"}}


def _path_in_wheel(name: str) -> str:
    return name if name.startswith("cada_edge/") else f"cada_edge/{name}"


def test_the_wheel_holds_what_git_holds(wheel: Path, tracked: list[str]) -> None:
    packaged = {
        _path_in_wheel(name)
        for name in tracked
        if name.startswith(("cada_edge/", *(f"{package}/" for package in SUB_PACKAGES)))
        and (name in SHIPPED or not any(fnmatch.fnmatch(name, pattern) for pattern in NOT_SHIPPED))
        and not (ROOT / name).is_symlink()
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    extra, lost = sorted(held - packaged), sorted(packaged - held)
    assert not extra, f"in the wheel and not in git (git add, or remove): {extra}"
    assert not lost, f"in git and not in the wheel (see package-data in pyproject.toml): {lost}"


def test_the_wheel_holds_only_cada_edge(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "cada_edge",
        f"cada_edge-{cada_edge.__version__}.dist-info",
    }
    assert "cada_edge/py.typed" in names
    assert f"cada_edge-{cada_edge.__version__}.dist-info/licenses/LICENSE" in names


def test_the_sdist_holds_what_the_readme_links_to(wheel: Path, tracked: list[str]) -> None:
    (archive,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    linked = [name for name in tracked if name.startswith(("docs/", "examples/"))]
    assert "examples/factory_app.py" in linked
    assert set(linked) <= held


def test_an_installation_needs_numpy_and_click_alone(wheel: Path) -> None:
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(re.findall(r"Requires-Dist: (\w+)", "\n".join(required))) == ["click", "numpy"]
    # An upper bound on NumPy shuts out either a Jetson's OpenCV or everyone's next release.
    assert not [line for line in required if re.search(r"<|==|~=", line)]


def _lend(package: str, site_packages: Path) -> None:
    """Link a package of this environment, its metadata and its shared libraries into another one."""
    distribution = metadata.distribution(package)
    folders = {file.parts[0] for file in distribution.files or [] if len(file.parts) > 1}
    for name in folders - {"..", "__pycache__"}:
        (site_packages / name).symlink_to(Path(str(distribution.locate_file(name))))


def _environment(folder: Path, *install: str) -> Path:
    """Make an environment with cada-edge in it, in a second and without the network; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for package in ("numpy", "click", "setuptools"):
        _lend(package, site_packages)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-index"]
    done = subprocess.run(
        [*command, "--no-build-isolation", *install], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module", params=["wheel", "editable"])
def python_with_cada_edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment into which cada-edge was installed, both ways."""
    folder = tmp_path_factory.mktemp(f"{request.param}-environment")
    if request.param == "wheel":
        return _environment(folder, str(request.getfixturevalue("wheel")))
    project = _copy_of_the_project(tmp_path_factory.mktemp("editable-project"))
    return _environment(folder, "-e", str(project))


def _run(python: Path, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(python), "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", SUB_PACKAGES)
def test_the_folders_are_not_importable_by_their_bare_names(
    python_with_cada_edge: Path, name: str, tmp_path: Path
) -> None:
    done = _run(python_with_cada_edge, f"import {name}", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: No module named '{name}'"


@pytest.mark.parametrize("name", SUB_PACKAGES)
def test_the_folders_are_importable_inside_cada_edge(
    python_with_cada_edge: Path, name: str, tmp_path: Path
) -> None:
    done = _run(python_with_cada_edge, f"import cada_edge.{name} as module; print(module.__name__)", tmp_path)
    assert done.stdout == f"cada_edge.{name}\n", done.stderr


def test_an_application_with_the_same_names_works(python_with_cada_edge: Path, tmp_path: Path) -> None:
    (tmp_path / "runtime.py").write_text('WHOSE = "application"\n')
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "__init__.py").write_text('WHOSE = "application"\n')
    code = (
        "import runtime, export, cada_edge.runtime.preprocess, cada_edge.export; "
        "print(runtime.WHOSE, export.WHOSE, cada_edge.runtime.preprocess.__name__)"
    )
    done = _run(python_with_cada_edge, code, tmp_path)
    assert done.stdout == "application application cada_edge.runtime.preprocess\n", done.stderr


def test_the_bare_command_shows_its_help(python_with_cada_edge: Path, tmp_path: Path) -> None:
    command = [str(python_with_cada_edge.with_name("cada-edge")), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: cada-edge" in done.stdout


def test_the_version_stands_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", cada_edge.__version__)
    assert "version" not in _pyproject()["project"]


def test_the_changelog_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\]", text, flags=re.MULTILINE)
    assert sections[0] == "Unreleased"
    # Until the first release there is no other section; after it, the newest one is the code's version.
    assert sections[1:2] in ([], [cada_edge.__version__])


def test_ci_installs_every_command_that_a_test_needs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    installed = set(re.findall(r"^need (\S+)", script, flags=re.MULTILINE))
    marks = re.compile(r'^@pytest\.mark\.needs_system\("([^"]+)"', flags=re.MULTILINE)
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if file.name != "test_conftest.py"]
    needed = {command for file in files for command in marks.findall(file.read_text(encoding="utf-8"))}
    assert needed <= installed
