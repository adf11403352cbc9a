"""A Ray cluster of several raylets on this machine, in a process of its own: `Nodes` starts it, adds and removes nodes by name."""

import os
import subprocess
import sys
import tempfile


class Nodes:
    """A head of `cpus` CPUs; each node that is added has the CPUs given."""

    def __init__(self, cpus: int):
        environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        environment.pop("RAY_AUTH_TOKEN", None)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([sys.executable, __file__, str(cpus)], env=environment, text=True, **pipes)
        self.address = self._heard()

    def _heard(self) -> str:
        for line in self.process.stdout:
            if line.startswith("nodes: "):
                return line.removeprefix("nodes: ").strip()
        raise RuntimeError("the cluster's process ended")

    def _order(self, *words) -> None:
        print(*words, file=self.process.stdin, flush=True)
        assert self._heard() == "done"

    def add(self, name: str, cpus: int) -> None:
        self._order("add", name, cpus)

    def remove(self, name: str) -> None:
        self._order("remove", name)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=120)


def serve(cpus: int, folder: str) -> None:
    from ray.cluster_utils import Cluster

    os.makedirs("/tmp/ray", exist_ok=True)  # Ray notes the latest cluster there whatever its temp_dir, and fails on a machine that never ran one
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False, "temp_dir": folder})
    print("nodes:", cluster.address, flush=True)
    nodes = {"head": cluster.head_node}
    for line in sys.stdin:
        verb, name, *rest = line.split()
        if verb == "add":
            nodes[name] = cluster.add_node(num_cpus=int(rest[0]))
        else:
            cluster.remove_node(nodes.pop(name))
        print("nodes: done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True) as place:
        serve(int(sys.argv[1]), place)
