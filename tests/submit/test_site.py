"""The site file: what it may hold, and how a fault in it is told."""

import pytest

from pipeline.config.errors import BadInput
from pipeline.submit.script import Script, render
from pipeline.submit.site import Site, load_site

SCRIPT = Script("gfs-x", "/runs/x/job", "/runs/x/log.txt", "/work", "/bin", ("run", "-c", "/runs/x/job/config.yaml"), ray=False)


def told(tmp_path, text: str) -> str:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as error:
        load_site(str(path))
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    "text, words",
    [
        ("partion: gpu", "partion: unknown setting; did you mean partition?"),
        ("partition: 'a b'", "partition: String should match pattern"),
        ("partition: \"a\\n#SBATCH --uid=0\"", "partition: String should match pattern"),
        ("nodes: 0", "nodes: Input should be greater than or equal to 1 (found 0)"),
        ("cpus: '4'", "cpus: Input should be a valid integer"),
        ("options: [mail]", "options: 'mail' is no sbatch option; write --name=value"),
        ("variables: {WANDB_API_KEY: x}", "variables: WANDB_API_KEY looks like a secret"),
        ("variables: {'a b': x}", "variables: 'a b' is no name of a variable"),
        ("scratch: tmp", "scratch: String should match pattern"),
        (f"scratch: /{'x' * 60}", "scratch: has more than 40 bytes"),
        ("container: [\"a\\0\"]", "container: holds what no word of a script can"),
        ("- a", "holds no settings; start from slurm/site.yaml"),
    ],
)
def test_a_fault_is_told_with_its_key(tmp_path, text, words):
    message = told(tmp_path, text)
    assert message.startswith(words)
    assert "WANDB_API_KEY: x" not in message


def test_the_value_of_what_looks_like_a_secret_is_not_told(tmp_path):
    assert "hunter2" not in told(tmp_path, "variables: {MY_PASSWORD: hunter2}")


def test_a_file_that_is_named_and_not_there_is_bad_input_and_none_at_all_means_the_defaults(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("GFS_SITE", raising=False)
    assert load_site(None) == Site()
    with pytest.raises(BadInput, match="absent.yaml: cannot be read"):
        load_site("absent.yaml")


def test_the_command_line_goes_before_the_environment_and_that_before_the_home_directory(tmp_path, monkeypatch):
    (tmp_path / "goodsubnets").mkdir()
    for name, partition in (("goodsubnets/slurm.yaml", "home"), ("environment.yaml", "environment"), ("given.yaml", "given")):
        (tmp_path / name).write_text(f"partition: {partition}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("GFS_SITE", raising=False)
    assert load_site(None).partition == "home"
    monkeypatch.setenv("GFS_SITE", str(tmp_path / "environment.yaml"))
    assert load_site(None).partition == "environment"
    assert load_site(str(tmp_path / "given.yaml")).partition == "given"


def test_every_setting_of_a_site_shows_in_the_script():
    site = Site(
        partition="p1", account="a1", qos="q1", constraint="a100|h100", reservation="r1", time="1-00:00:00", nodes=1, cpus=6, gpus=2, memory="16G",
        exclusive=True, options=["--mail-type=END"], tasks_at_once=3, notice_seconds=90, requeues=4, wait_seconds=77, scratch="/local",
        modules=["cuda/12"], prologue=["ulimit -n 4096"], variables={"A": "b c"}, container=["apptainer", "exec"], bin="/unused",
    )
    text = render(Script(**{**SCRIPT.__dict__, "ray": True, "tasks": 5}), site)
    head = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert head == [
        *("--job-name=gfs-x", "--partition=p1", "--account=a1", "--qos=q1", "--constraint=a100|h100", "--reservation=r1", "--time=1-00:00:00"),
        *("--mem=16G", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=6", "--gpus-per-node=2", "--exclusive", "--array=0-4%3"),
        *("--signal=B:USR2@90", "--requeue", "--open-mode=append", "--output=slurm-%j.out", "--mail-type=END"),
    ]
    lines = text.splitlines()
    for line in ("requeues=4", "patience=77", "scratch=/local", "module load cuda/12", "ulimit -n 4096", "export A='b c'", "inside=(apptainer exec)"):
        assert line in lines
    assert "given=(--num-cpus=6 --num-gpus=2 --disable-usage-stats --block)" in lines
    assert any("--cpus-per-task=6 --gpus-per-node=2 --nodes=" in line for line in lines)
