"""The Ray that a command starts for itself lets nobody in without its token, whatever the user's settings for other clusters are."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

HOST = """
import json, os, subprocess, sys
from pipeline.cluster.session import connected
from pipeline.config.settings import Cluster
if __name__ == "__main__":
    with connected(Cluster(workers=1), 1) as ray:
        address, mode, given = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]
        told = {"mode": mode, "token": given}
        for name, settings in {
            "own": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": given},
            "other": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64},
            "none": {"RAY_AUTH_MODE": "disabled"},
        }.items():
            environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | settings
            client = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False); print(len(ray.nodes()))"
            ended = subprocess.run([sys.executable, "-c", client, address], env=environment, capture_output=True, text=True, timeout=120)
            told[name] = ended.stdout.strip() if ended.returncode == 0 else "refused"
    print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "mine"}], ids=["no settings", "settings of another cluster"])
def test_a_ray_of_ones_own_asks_for_its_token(settings, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | settings
    ended = subprocess.run([sys.executable, "-c", HOST], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["mode"] == "token" and len(told["token"]) == 64
    assert (told["own"], told["other"], told["none"]) == ("1", "refused", "refused")
