"""Several processes train one model: who is who, and what they tell each other.

`torchrun` starts the processes and says in the environment which of them this is. They share each batch and
average their gradients; the first one alone writes. Small texts (a result, a failure) go through torchrun's
key-value store, which waits for as long as a stage takes, while collectives end after their time limit.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cada_edge.errors import CadaEdgeError, ConfigError, TrainingError

__all__ = ["Place", "Processes", "check_batch_size", "join", "launched_place"]

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets."""

_FAILURE = "failure"
_POLL_S = 0.2


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is."""

    rank: int = 0
    """Number among all of them; 0 leads: it alone writes."""
    count: int = 1
    """Processes in all."""
    local_rank: int = 0
    """Number among those of this machine."""
    local_count: int = 1
    """Processes on this machine."""
    machine: int = 0
    """Number of this machine."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0


def launched_place(environment: Mapping[str, str] | None = None) -> Place:
    """Tell from torchrun's variables which process this is; without them the only one.

    Args:
        environment: Instead of the process's own.

    Raises:
        ConfigError: The variables are there, but are no numbers.

    Example:
        >>> launched_place({}).leads
        True
    """
    found = os.environ if environment is None else environment
    if any(name not in found for name in _NEEDED):
        return Place()
    try:
        rank, count = int(found["RANK"]), int(found["WORLD_SIZE"])
        return Place(
            rank=rank,
            count=count,
            local_rank=int(found.get("LOCAL_RANK", rank)),
            local_count=int(found.get("LOCAL_WORLD_SIZE", count)),
            machine=int(found.get("GROUP_RANK", 0)),
        )
    except ValueError as error:
        raise ConfigError(
            f"RANK {found['RANK']!r} and WORLD_SIZE {found['WORLD_SIZE']!r} came from the environment; "
            "wanted numbers. Start several processes with torchrun, which sets them, or unset both for one."
        ) from error


def check_batch_size(batch_size: int, place: Place) -> None:
    """Refuse a batch that the processes cannot share equally.

    Args:
        batch_size: Images in a step of all processes together.
        place: Of this process.

    Raises:
        ConfigError: It is no multiple of their number.
    """
    if batch_size % place.count:
        below = batch_size // place.count * place.count
        raise ConfigError(
            f"batch_size {batch_size} came with {place.count} processes, which share each batch equally; "
            f"wanted a multiple of {place.count}. Pass --batch-size {below + place.count}"
            + (f" or {below}." if below else ".")
        )


class Processes:
    """This process among the others; alone, everything it does is nothing."""

    def __init__(self, place: Place | None = None, store: Store | None = None) -> None:
        """Prepare.

        Args:
            place: Of this process; None for the only one.
            store: Where all of them put texts; None for the only one.
        """
        self.place = Place() if place is None else place
        self._store = store

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.place.count > 1

    def share(self, rows: Tensor) -> Tensor:
        """Take this process's part of a batch's image numbers (B,), B a multiple of the processes."""
        each = len(rows) // self.place.count
        return rows[self.place.rank * each : (self.place.rank + 1) * each]

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes."""
        if not self.several:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.place.count

    def copy_from_leader(self, tensors: Iterator[Tensor] | list[Tensor]) -> None:
        """Overwrite tensors with the leader's, in place."""
        if self.several:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def object_from_leader(self, value: Any, device: torch.device) -> Any:
        """Give every process the leader's value; the others' own is ignored."""
        if not self.several:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0, device=device)
        return box[0]

    def tell(self, key: str, value: Any) -> None:
        """Put a JSON-safe value where the others find it."""
        if self._store is not None:
            self._store.set(key, json.dumps(value))

    def hear(self, key: str) -> Any:
        """Wait, without a limit, for what another process tells.

        Raises:
            TrainingError: A process ended with an error instead.
        """
        assert self._store is not None, "a process that is alone hears nothing"
        while not self._store.check([key]):
            failure = self.failure()
            if failure is not None:
                raise TrainingError(failure)
            time.sleep(_POLL_S)
        return json.loads(self._store.get(key))

    def failure(self) -> str | None:
        """Return what the first process to fail said, None while all is well."""
        if self._store is None or not self._store.check([_FAILURE]):
            return None
        told = json.loads(self._store.get(_FAILURE))
        return f"Process {told['rank']} of {self.place.count} ended: {told['message']}"

    def tell_failure(self, error: Exception) -> None:
        """Say why this process ends, unless another one did so before."""
        if self._store is None:
            return
        message = str(error) if isinstance(error, CadaEdgeError) else f"{type(error).__name__}: {error}"
        told = json.dumps({"rank": self.place.rank, "message": message})
        self._store.compare_set(_FAILURE, "", told)


@contextmanager
def join(place: Place, device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started, and leave them at the end of the block.

    An error in one of them is told to the others, which end with its message as soon as they wait for it, or
    when that process has ended and torchrun ends them: an error is not for going on after it.

    Args:
        place: Of this process.
        device: Its own; CUDA processes talk through NCCL, others through Gloo.

    Raises:
        ConfigError: The process already is in a group of torch.distributed.
        TrainingError: Another process failed.
    """
    if place.count == 1:
        yield Processes(place)
        return
    if dist.is_initialized():
        raise ConfigError(
            "torch.distributed is initialised already; wanted processes as torchrun starts them, since "
            "training joins and leaves them itself. Call torch.distributed.destroy_process_group() first."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, _, _ = next(iter(rendezvous("env://")))
    # Several runs may follow each other in one set of processes: each has keys of its own.
    number = store.add(f"cada-edge/joined/{place.rank}", 1)
    own = PrefixStore(f"cada-edge/{number}", store)
    processes = Processes(place, own)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("group", own),
        rank=place.rank,
        world_size=place.count,
    )
    try:
        yield processes
    except Exception as error:
        processes.tell_failure(error)
        # torch's own error is what a collective gives when its partner has gone: the partner's says why.
        failure = None if isinstance(error, CadaEdgeError) else processes.failure()
        if failure is None or failure.startswith(f"Process {place.rank} of"):
            raise
        raise TrainingError(failure) from error
    finally:
        dist.destroy_process_group()
