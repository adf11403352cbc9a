"""Whether every node of a job has come, asked of a Ray of several raylets."""

import os
import subprocess
import sys

import pytest

from tests.cluster.nodes import Nodes
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def nodes():
    made = Nodes(1)
    yield made
    made.end()


def ask(*words, **environment):
    command = [sys.executable, "-P", "-m", "pipeline.cluster.gathering", *map(str, words)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)


def test_nodes_that_are_there_are_not_waited_for_and_those_that_are_not_are_named(nodes):
    address = nodes.address.rpartition(":")[0]
    done = ask("wait", nodes.address, 60, address, RAY_AUTH_MODE="disabled")  # a node without a name of its own is called by its address
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
    done = ask("wait", nodes.address, 5, address, "n7", "n8", RAY_AUTH_MODE="disabled")
    assert (done.returncode, done.stdout.split()) == (75, ["n7", "n8"]), done.stderr


def test_where_no_ray_is_every_node_is_missing_in_bounded_time():
    done = ask("wait", "127.0.0.1:1", 1, "n1", "n2")
    assert (done.returncode, done.stdout.split()) == (75, ["n1", "n2"])


def test_a_head_gets_an_address_and_ports_that_are_free():
    address, *ports = ask("place").stdout.split()
    assert address.count(".") == 3 and 1 <= len(ports) <= 2 and all(1024 <= int(port) < 65536 for port in ports)
