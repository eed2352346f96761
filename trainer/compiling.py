"""torch.compile for a base method's loss: asked for, it works or says why not; never a silent fall-back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cada_edge.errors import TrainingError

__all__ = ["compiled"]

_HINTS = {
    "cpu": "a C++ compiler (on Debian and Ubuntu: apt-get install g++)",
    "cuda": "Triton, which torch's wheels for Linux bring, and a C compiler (apt-get install gcc)",
}


def compiled(loss: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Compile a loss function; the module it belongs to, and so the names of its weights, stay as they are.

    Args:
        loss: A base method's `loss_on`.
        device: Where it will run.

    Returns:
        The function, compiled when it is first called: that takes from half a minute to some minutes.

    Raises:
        TrainingError: There is no compiler, or it cannot compile this; from the first call too.
    """
    from torch._dynamo.exc import TorchDynamoException

    def failed(error: Exception) -> TrainingError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return TrainingError(
            f"torch.compile failed on {device.type} with torch {torch.__version__} ({reason}); "
            f"wanted {_HINTS.get(device.type, 'a compiler')}. Install it, or train without --compile."
        )

    try:
        function = torch.compile(loss)
    except RuntimeError as error:  # a Python that this torch cannot compile for
        raise failed(error) from error

    def call(*arguments: Any, **options: Any) -> Tensor:
        try:
            result: Tensor = function(*arguments, **options)
        except TorchDynamoException as error:
            raise failed(error) from error
        return result

    return call
