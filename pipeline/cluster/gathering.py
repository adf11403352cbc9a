"""What a job script asks about Ray: where the head may listen, and whether every node has come. `python -m pipeline.cluster.gathering`."""

import argparse
import contextlib
import logging
import socket
import sys
import time
from importlib.util import find_spec

LOOK_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> int:
    """`place` prints where the head may listen; `wait` prints the nodes that are missing, 75 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.cluster.gathering")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("place")
    waiting = verbs.add_parser("wait")
    waiting.add_argument("address")
    waiting.add_argument("seconds", type=float)
    waiting.add_argument("nodes", nargs="+", metavar="node")
    given = parser.parse_args(arguments)
    if given.verb == "place":
        print(*place())
        return 0
    missing = await_nodes(given.address, given.seconds, given.nodes)
    print(*missing)
    return 75 if missing else 0


def place() -> tuple:
    """(address of this machine, a port that is free on it now, and one more for Ray's client where that is installed)."""
    import ray

    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(2 if find_spec("grpc") else 1):  # as Ray itself asks
            listener = held.enter_context(socket.socket())
            listener.bind(("", 0))
            ports.append(listener.getsockname()[1])
        return ray.util.get_node_ip_address(), *ports


def await_nodes(address: str, seconds: float, names: list[str]) -> list[str]:
    """Wait until every node has joined the Ray at `address`; those that have not within `seconds`."""
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    end, missing = time.monotonic() + seconds, list(names)
    while missing and time.monotonic() < end:
        try:
            if not ray.is_initialized():
                _knock(address)
                ray.init(address=address, logging_level="CRITICAL", log_to_driver=False)
            alive = {node["NodeName"] for node in ray.nodes() if node["Alive"]}
            missing = [name for name in names if name not in alive]
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:  # the head is still coming up
            print(f"ray: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        time.sleep(LOOK_SECONDS if missing else 0)
    ray.shutdown()
    return missing


def _knock(address: str) -> None:
    """Raises OSError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=5).close()


if __name__ == "__main__":
    sys.exit(main())
