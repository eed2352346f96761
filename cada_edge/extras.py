"""Optional packages: looked for before their use, so that a missing one is a sentence, not a traceback."""

from __future__ import annotations

from importlib.util import find_spec

from cada_edge.errors import MissingExtraError

__all__ = ["require_extra"]


def require_extra(feature: str, package: str, extra: str) -> None:
    """Check that a package is installed, without importing it.

    Args:
        feature: What needs it, as the start of a sentence.
        package: Name to import.
        extra: The extra of cada-edge that brings it.

    Raises:
        MissingExtraError: It is not installed.
    """
    if find_spec(package) is None:
        raise MissingExtraError(feature, package, extra)
