from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from cada_edge.errors import ConfigError, TrainingError
from cada_edge.trainer.base_step import check_compile
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.fit import choose_device
from cada_edge.trainer.processes import Place, Processes, check_batch_size, join, launched_place

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


def test_the_place_is_torchruns() -> None:
    place = launched_place(TORCHRUN)
    assert place == Place(rank=5, count=8, local_rank=1, local_count=4, machine=1)
    assert not place.leads


def test_without_torchrun_there_is_one_process_and_it_leads() -> None:
    assert launched_place({}) == launched_place({"RANK": "3"}) == Place()
    assert Place().leads


def test_a_place_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"RANK 'first' and WORLD_SIZE '8' came .*; wanted numbers\. Start"):
        launched_place({**TORCHRUN, "RANK": "first"})


def test_the_processes_share_a_batch_in_order() -> None:
    rows = torch.arange(6)
    parts = [Processes(Place(rank=rank, count=3)).share(rows).tolist() for rank in range(3)]
    assert parts == [[0, 1], [2, 3], [4, 5]]
    assert Processes().share(rows).tolist() == rows.tolist()


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    check_batch_size(16, Place(count=4))
    check_batch_size(7, Place())
    with pytest.raises(
        ConfigError, match=r"batch_size 16 came with 3 processes, .*wanted a multiple of 3\. "
    ):
        check_batch_size(16, Place(count=3))
    with pytest.raises(ConfigError, match=r"Pass --batch-size 18 or 15\."):
        check_batch_size(16, Place(count=3))
    with pytest.raises(ConfigError, match=r"Pass --batch-size 8\."):
        check_batch_size(4, Place(count=8))


def test_compilation_of_several_processes_is_refused() -> None:
    check_compile(TrainConfig(compile=True), Place())
    check_compile(TrainConfig(), Place(count=2))
    with pytest.raises(ConfigError, match=r"compile came with 2 processes; .*Leave --compile out"):
        check_compile(TrainConfig(compile=True), Place(count=2))


def test_each_of_several_processes_gets_a_gpu_of_its_own() -> None:
    place = Place(rank=99, count=100, local_rank=99, local_count=100)
    assert choose_device("cpu", place).type == "cpu"
    with pytest.raises(ConfigError, match=r"'cuda:99' came, .*start no more processes on a machine than it"):
        choose_device("cuda", place)
    with pytest.raises(
        ConfigError, match=r"'cuda:0' came with 100 processes; wanted a GPU for each .*VISIBLE"
    ):
        choose_device("cuda:0", place)


def test_what_one_tells_the_others_hear() -> None:
    store = HashStore()
    first, second = (Processes(Place(rank=rank, count=2), store) for rank in range(2))
    first.tell("result", {"threshold": None, "images": 3})
    assert second.hear("result") == {"threshold": None, "images": 3}


def test_the_first_failure_is_what_all_hear() -> None:
    store = HashStore()
    first, second = (Processes(Place(rank=rank, count=2), store) for rank in range(2))
    assert first.failure() is None
    second.tell_failure(MemoryError("no room"))
    first.tell_failure(TrainingError("lost the others"))
    assert first.failure() == "Process 1 of 2 ended: MemoryError: no room"
    with pytest.raises(TrainingError, match=r"^Process 1 of 2 ended: MemoryError: no room$"):
        first.hear("result")
    lone = HashStore()
    Processes(Place(count=2), lone).tell_failure(TrainingError("its own words"))
    assert Processes(Place(rank=1, count=2), lone).failure() == "Process 0 of 2 ended: its own words"


def test_alone_nothing_is_told_and_all_stays() -> None:
    alone = Processes()
    value = torch.ones(3)
    assert alone.mean(value) is value
    assert alone.object_from_leader("own", torch.device("cpu")) == "own"
    alone.copy_from_leader([value])
    alone.tell("result", 1)
    alone.tell_failure(ValueError("x"))
    assert alone.failure() is None
    with join(Place(), torch.device("cpu")) as joined:
        assert not joined.several


def test_a_group_that_is_there_already_is_refused() -> None:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        with (
            pytest.raises(ConfigError, match=r"is initialised already; .*Call .*destroy_process_group\(\)"),
            join(dataclasses.replace(Place(), count=2), torch.device("cpu")),
        ):
            pass
    finally:
        dist.destroy_process_group()
