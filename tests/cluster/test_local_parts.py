"""Small parts of the local cluster, each by itself."""

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import cast
from uuid import uuid4

import aiohttp
import pytest

from dory_orchestrator.cluster.local import states
from dory_orchestrator.cluster.local.books import Books
from dory_orchestrator.cluster.local.container import trim_log
from dory_orchestrator.cluster.local.fronts import Slots
from dory_orchestrator.cluster.local.places import Places
from dory_orchestrator.cluster.local.watching import Pictures
from dory_orchestrator.core.model import Node
from dory_orchestrator.ports import ClusterRefused, Refusal


def test_addresses_and_ports_are_given_once():
    slots = [Slots(Path("/same")), Slots(Path("/same"))]
    taken = [slots[number % 2].take() for number in range(10)]
    try:
        assert len({slot.address for slot in taken}) == 10
        assert len({slot.real_port for slot in taken}) == 10
        assert all(slot.ip.startswith("127.") for slot in taken)
    finally:
        for slot in taken:
            slot.sock.close()


def test_a_port_that_is_in_use_is_passed_over():
    slots = Slots(Path("/other"))
    first = slots.take()
    with first.sock, socket.socket() as foreign:
        foreign.bind(("0.0.0.0", first.real_port + 1))
        foreign.listen()
        second = slots.take()
        second.sock.close()
    assert second.real_port > first.real_port + 1


def test_where_there_is_one_loopback_address_ports_stand_for_pods(monkeypatch):
    slots = Slots(Path("/mac"))
    monkeypatch.setattr(slots, "_aliases", False)
    slot = slots.take()
    with slot.sock:
        assert slot.address == f"127.0.0.1:{slot.port}"
        assert slot.port != slot.real_port


def test_a_log_keeps_its_newest_part(tmp_path):
    log = tmp_path / "log"
    with log.open("ab") as pod:
        pod.write(b"old\n" + b"x" * 10_000_000 + b"new\n")
        pod.flush()
        trim_log(log)
        pod.write(b"next\n")
    assert log.read_bytes() == b"next\n"
    kept = (tmp_path / "log.old").read_bytes()
    assert len(kept) == 10_000_000
    assert kept.endswith(b"new\n")


def test_the_folders_of_old_pods_go(tmp_path):
    places = Places(tmp_path)
    places.make()
    folders = [places.pod_folder(f"pod-{number}", str(uuid4())) for number in range(210)]
    for age, folder in enumerate(folders):
        folder.mkdir()
        os.utime(folder, (age, age))
    places.prune({folders[0]})
    assert [folder.exists() for folder in folders] == [True] + [False] * 9 + [True] * 200


def test_a_long_name_has_a_folder_and_a_log(tmp_path):
    places, name = Places(tmp_path), "n" * 253
    folder = places.pod_folder(name, str(uuid4()))
    folder.mkdir(parents=True)
    (folder / "log").touch()
    assert places.log_of(name) == folder / "log"
    assert places.log_of("other") is None


def test_what_is_no_state_document_is_not_read(tmp_path):
    target = tmp_path / "target"
    target.write_text("secret")
    link, fifo, folder = tmp_path / "link", tmp_path / "fifo", tmp_path / "folder"
    link.symlink_to(target)
    os.mkfifo(fifo)
    folder.mkdir()
    for path in (fifo, folder):
        with pytest.raises(ClusterRefused) as refused:
            states.read_state(path)
        assert refused.value.reason == Refusal.INVALID
    with pytest.raises(Exception, match="link"):
        states.read_state(link)
    states.write_state(tmp_path / "state", b"{}", None)
    assert {path.name for path in tmp_path.iterdir()} == {
        "target",
        "link",
        "fifo",
        "folder",
        "state",
    }


A_NODE = Node("a", ready=False)


@pytest.mark.looptime
async def test_a_change_that_comes_as_the_wait_ends_is_told():
    """The frame of a quiet second must not bear the number of a change that it does not tell of:
    whoever reads it would pass over the frame that does."""
    books, loop = Books(), asyncio.get_running_loop()
    books.put_node(A_NODE)
    pictures = Pictures(cast(aiohttp.ClientResponse, None), lambda: None)
    shown = aiter(pictures)
    with books.watch() as watch:
        pictures._take(await watch.next(1.0))
        assert not (await anext(shown)).nodes["a"].ready
        waiting = asyncio.create_task(watch.next(1.0))
        await asyncio.sleep(0)
        # In the turn of the loop in which the wait ends, right after its end.
        loop.call_at(loop.time() + 1.0, books.put_node, replace(A_NODE, ready=True))
        pictures._take(await waiting)
        assert loop.time() == 1.0
        assert (await anext(shown)).nodes["a"].ready
        again = await watch.next(1.0)
    assert (again.nodes, again.pods, again.revision) == ((), (), books.revision)


@pytest.mark.looptime
async def test_a_quiet_second_says_that_the_picture_is_still_true():
    books = Books()
    books.put_node(A_NODE)
    pictures = Pictures(cast(aiohttp.ClientResponse, None), lambda: None)
    shown = aiter(pictures)
    with books.watch() as watch:
        for _ in range(3):
            pictures._take(await watch.next(1.0))
            assert (await anext(shown)).nodes == {"a": A_NODE}
