from __future__ import annotations

from cada_edge.runtime.source_names import SourceNames


def test_each_source_has_a_name_of_its_own() -> None:
    names = SourceNames()
    assert [names.add("belt") for _ in range(3)] == ["belt", "belt (2)", "belt (3)"]
    assert names.add("belt (2)") == "belt (2) (2)"


def test_a_source_with_a_name_gives_it_to_its_frames() -> None:
    names = SourceNames()
    name = names.add("left")
    assert {names.of_frame(name, brought, "belt") for brought in ("left", "belt", "sdk")} == {"left"}
    assert names.of_source(name) == "left"


def test_a_source_without_one_has_that_of_its_frames() -> None:
    names = SourceNames()
    first, second, belt = names.add("iterable"), names.add("iterable"), names.add("belt")
    assert names.of_source(second) == second == "iterable (2)"
    # A plain array is called after the source, by whatever name that was opened.
    assert names.of_frame(second, "iterable", "iterable") == names.of_source(second) == second
    assert names.of_frame(second, "press", "iterable") == "press"
    assert names.of_frame(first, "press", "iterable") == "press (2)"
    assert names.of_frame(first, belt, "iterable") == "belt (2)"
    assert names.of_frame(first, "press", "iterable") == "press (2)"
    assert [names.of_source(each) for each in (first, second, belt)] == ["press (2)", "press", "belt"]


def test_frames_that_each_bring_another_name_fill_no_memory() -> None:
    names = SourceNames()
    parts, belt = names.add("iterable"), names.add("belt")
    called = [names.of_frame(parts, f"part {number}", "iterable") for number in range(1000)]
    assert called == [f"part {number}" for number in range(1000)]
    assert names.of_frame(parts, "part 3", "iterable") == "part 3"
    # Those that are told apart are the first ones.
    assert names.of_frame(parts, belt, "iterable") == "belt"
    assert names.add("part 63") == "part 63 (2)"
    assert names.add("part 64") == "part 64"
