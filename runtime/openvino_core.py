"""The one OpenVINO core of a process."""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["openvino_core"]


@functools.cache
def openvino_core() -> Any:
    """Return the process's `openvino.Core`, made at the first call and kept until the process ends.

    OpenVINO's CPU plugin gives the thread that loads it an alternate signal stack and unmaps that memory when
    the last core goes, from whichever thread that happens (SigAltStackSetup in its plugin.cpp; 2026.4). The
    first thread is then left with a stack that is gone, and the next signal with a Python handler, as Ctrl-C,
    ends the process with a segmentation fault. A core that stays prevents it.
    """
    import openvino

    return openvino.Core()
