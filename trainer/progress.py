"""Progress bars on stderr, one per stage of a run."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ProgressBars"]


class ProgressBars:
    """Shows stages as tqdm bars; a new stage closes the bar before it."""

    def __init__(self, *, images_per_step: int = 1) -> None:
        """Prepare.

        Args:
            images_per_step: Images in a step of the stages that show a loss, for the rate.
        """
        self._bar: Any = None
        self._stage: str | None = None
        self._images = images_per_step

    def update(self, stage: str, done: int, total: int, loss: float = float("nan")) -> None:
        """Show how far a stage is.

        Args:
            stage: Its name.
            done: Steps done.
            total: Steps in all.
            loss: The last loss; not a number where there is none.
        """
        from tqdm import tqdm

        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm(total=total, desc=f"{stage:<10}", mininterval=0.5, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)
        if loss == loss:
            rate = self._bar.format_dict["rate"] or 0.0
            self._bar.set_postfix_str(f"loss {loss:.4f}, {rate * self._images:.1f} images/s", refresh=False)

    def close(self) -> None:
        """Close the last bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
        self._stage = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
