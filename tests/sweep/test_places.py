"""Where a sweep may lie and be called from: odd names, relative paths, a module of the user's own in the working directory."""

import json
import os
import shutil
from pathlib import Path

import pytest


@pytest.mark.proof
def test_odd_names_and_relative_paths_mean_the_same_inside_trials(make_group, tmp_path):
    place = tmp_path / "a user's pläce #1 50%20"
    place.mkdir()
    shutil.copy(Path(__file__).with_name("fragile.py"), place / "mymodule.py")
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    group = make_group(
        cwd=place,
        runs_dir=Path("my rüns?/#2"),
        sweep="sweep: {arm: [none, finetune]}\n",
        model="mymodule:build",
        title="it''s \"mine\": 50 % & <b>",
        environment={"PYTHONPATH": path},
    )
    out, _ = group.run()
    folder = place / out.splitlines()[-1]
    assert folder.parent == place / "my rüns?/#2"
    runs = json.loads((folder / "group.json").read_text())["runs"]
    assert [run["state"] for run in runs] == ["done", "done"]
    assert {path.name for path in place.iterdir()} - {"__pycache__"} == {"mymodule.py", "my rüns?"}
    (folder / "tune/0/finished").unlink()
    (folder.parent / runs[1]["run"] / "result.json").unlink()
    _, err = group.run()
    assert "is restored" in err
    assert {path.name for path in place.iterdir()} - {"__pycache__"} == {"mymodule.py", "my rüns?"}
