from __future__ import annotations

import pickle
import socket

import pytest

from config import Settings
from service.server import CannotListenError, WorkerLoader, address, claim_port, pick_port


def test_port_0_is_a_free_port():
    assert 1024 <= pick_port("127.0.0.1", 0) <= 65535


def test_a_taken_port_is_one_clear_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotListenError, match=rf"^can't listen on 127\.0\.0\.1 port {port}: .*; try --port 0$"):
            pick_port("127.0.0.1", port)
    assert pick_port("127.0.0.1", port) == port


def test_an_address_of_another_machine_is_one_line_that_names_the_option():
    with pytest.raises(CannotListenError, match=r"192\.0\.2\.1 .*; --host must be an address of this machine$"):
        pick_port("192.0.2.1", 5000)


def test_an_address_without_its_interface_is_told_by_its_option():
    with pytest.raises(CannotListenError, match=r"fe80::1 .*; --host must be an address of this machine$"):
        pick_port("fe80::1", 0)


def test_of_servers_that_start_together_on_a_data_folders_port_one_is_let_through(tmp_path):
    claimed = claim_port(tmp_path, 5000)
    with pytest.raises(CannotListenError, match=r"another server with the data folder '.*' has port 5000"):
        claim_port(tmp_path, 5000)
    claim_port(tmp_path, 5001).release()
    claimed.release()
    claim_port(tmp_path, 5000).release()


def test_urls_put_brackets_around_long_addresses():
    assert address("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert address("::1", 80) == "http://[::1]:80"


def test_what_a_worker_gets_can_be_pickled():
    loader = WorkerLoader(Settings(port=5003))
    assert pickle.loads(pickle.dumps(loader)) == loader
