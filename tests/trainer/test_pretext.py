from __future__ import annotations

import ast
import inspect
from types import ModuleType

import numpy as np
import pytest

from cada_edge.trainer import pretext, pretext_textures
from cada_edge.trainer.pretext import MARKS, Scene, TextureBank, draw_bank, draw_batch, draw_scene
from cada_edge.trainer.pretext_textures import draw_texture


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return draw_bank(recipes=24, realisations=2, tile_size=48, seed=3)


@pytest.fixture(scope="module")
def scenes(bank: TextureBank) -> Scene:
    return draw_batch(bank, np.random.default_rng(0), count=40, size=64)


@pytest.mark.parametrize("module", [pretext, pretext_textures])
def test_nothing_is_shared_with_the_generator_of_the_inspected_line(module: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    own = {name for name in imported if name.startswith("cada_edge")}
    assert own <= {"cada_edge.trainer.pretext_textures"}


def test_a_texture_is_settled_by_its_numbers() -> None:
    first = draw_texture(5, 0, size=40, seed=1)
    assert first.shape == (40, 40, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, draw_texture(5, 0, size=40, seed=1))
    assert not np.array_equal(first, draw_texture(6, 0, size=40, seed=1))
    assert not np.array_equal(first, draw_texture(5, 0, size=40, seed=2))


def test_realisations_differ_in_pixels_and_agree_in_colour() -> None:
    places = np.stack([[draw_texture(recipe, index, size=96) for index in (0, 1)] for recipe in range(30)])
    assert all(not np.array_equal(first, second) for first, second in places)
    colours = places.mean(axis=(2, 3))
    within = np.linalg.norm(colours[:, 0] - colours[:, 1], axis=1)
    between = np.linalg.norm(colours[:, None, 0] - colours[None, :, 0], axis=2)
    assert np.median(within) < 0.1 * np.median(between)


def test_every_family_draws_something_at_odd_sizes() -> None:
    tiles = [draw_texture(recipe, 0, size=33) for recipe in range(120)]
    assert min(int(tile.max()) - int(tile.min()) for tile in tiles) >= 1


def test_a_bank_can_be_redrawn_with_fresh_noise(bank: TextureBank) -> None:
    fresh = draw_bank(recipes=24, realisations=1, tile_size=48, seed=3, first_realisation=1)
    assert bank.tiles.shape == (24, 2, 48, 48, 3)
    assert np.array_equal(fresh.tiles[:, 0], bank.tiles[:, 1])
    assert not np.array_equal(fresh.clouds, bank.clouds)


def test_a_scene_is_settled_by_bank_and_seed(bank: TextureBank) -> None:
    first, again, other = (draw_scene(bank, np.random.default_rng(seed), size=64) for seed in (7, 7, 8))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.recipe, again.recipe)
    assert np.array_equal(first.marks, again.marks)
    assert not np.array_equal(first.image, other.image)


def test_scenes_are_labelled_everywhere(scenes: Scene) -> None:
    assert scenes.image.shape == (40, 64, 64, 3)
    assert scenes.recipe.shape == (40, 64, 64)
    assert scenes.marks.shape == (40, 64, 64, len(MARKS))
    assert scenes.image.dtype == scenes.marks.dtype == np.uint8
    assert scenes.recipe.dtype == np.int16
    assert scenes.recipe.min() == 0
    assert scenes.recipe.max() == 23
    assert set(np.unique(scenes.marks)) == {0, 1}
    assert (scenes.marks.reshape(-1, len(MARKS)).max(axis=0) == 1).all()


def test_boundaries_lie_where_materials_meet(scenes: Scene) -> None:
    meets = np.zeros(scenes.recipe.shape, bool)
    meets[:, :, 1:] |= scenes.recipe[:, :, 1:] != scenes.recipe[:, :, :-1]
    meets[:, 1:] |= scenes.recipe[:, 1:] != scenes.recipe[:, :-1]
    assert scenes.marks[..., MARKS.index("boundary")][meets].mean() > 0.9


def test_holes_lie_in_objects(scenes: Scene) -> None:
    holes = scenes.marks[..., MARKS.index("hole")] == 1
    assert scenes.marks[..., MARKS.index("object")][holes].all()
