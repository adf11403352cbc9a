"""The report directory as a whole: from real runs, from files alone, the same bytes again, and what is refused."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.errors import BadInput
from pipeline.report.build import build_report
from pipeline.report.results import write_results
from pipeline.report.run import Run
from tests.conftest import ROOT, run_gfs
from tests.report.directories import GREEDY, config_of, make_group, make_run, row_of, write

CHECK = ROOT.parent / "shared/contracts/check.py"
FILES = {"report.html", "report.md", "results.csv", "tables.tex"}


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two pruners, two budgets, three arms, two seeds; one hole."""
    made = [
        make_run(tmp_path / "runs", config_of(prune, budget, arm, seed))
        for prune in (GREEDY, {}) for budget in (0.5, 0.25) for arm in ("none", "finetune", "reinit-epochs") for seed in (0, 1)
    ]  # fmt: skip
    return [*made, make_run(tmp_path / "runs", config_of(GREEDY, 0.25, "finetune", 2), done=False, error="no memory")]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def checked(path: Path) -> None:
    if not CHECK.exists():
        pytest.skip("the contracts are not beside this checkout")
    found = subprocess.run([sys.executable, CHECK, "--as", "result", path / "result.json"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_made_results_are_what_the_contract_asks(tmp_path):
    checked(make_run(tmp_path, config_of(GREEDY, arm="finetune")))


def test_the_report_holds_the_files_of_the_contract_and_its_figures_are_sound(runs, tmp_path):
    page = build_report(runs, tmp_path / "out")
    assert page == tmp_path / "out/report.html"
    files = files_of(tmp_path / "out")
    figures = {name for name in files if name.startswith("figures/")}
    assert set(files) == FILES | figures
    assert figures == {f"figures/net0-{name}.svg" for name in ("accuracy", "comparison", "arms", "path-0", "widths", "latency", "cost")}
    for name in figures:
        root = ElementTree.fromstring(files[name])
        assert not [element for element in root.iter() if "style" in element.attrib], "a strict policy refuses style attributes"
        assert b"f-surface" in files[name] and b"prefers-color-scheme:dark" in files[name]
    assert b"no memory" in files["report.html"] and b"no memory" in files["report.md"]


def test_the_same_input_gives_the_same_bytes_whatever_ran_before(runs, tmp_path):
    build_report(runs, tmp_path / "one")
    build_report(runs[:2], tmp_path / "two")
    build_report(runs, tmp_path / "two")  # also over an earlier report, whose figures go
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_ids_in_the_page_are_unique_and_every_reference_meets_one(runs, tmp_path):
    from html.parser import HTMLParser

    ids, references = [], set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            for name, value in attributes:
                if name == "id":
                    ids.append(value)
                elif name in ("href", "xlink:href", "aria-labelledby"):
                    references.add(value.removeprefix("#"))
                elif "url(" in (value or ""):
                    references.add(value.partition("url(#")[2].rstrip(")"))

    Reader().feed(build_report(runs, tmp_path / "out").read_text())
    assert len(ids) == len(set(ids)) > 10
    assert references <= set(ids)


def test_results_csv_has_the_plain_fields_of_the_results(runs, tmp_path):
    build_report(runs, tmp_path / "out")
    with open(tmp_path / "out/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    finished = [json.loads((run / "result.json").read_text()) for run in runs if (run / "result.json").exists()]
    assert list(rows[0]) == [name for name in finished[0] if name not in ("stages", "latency", "versions", "not_run")]
    for row, result in zip(rows, finished, strict=True):
        assert {name: "" if result[name] is None else str(result[name]) for name in row} == row


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXTS, TEXTS, st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_results_csv_reads_back_exactly(tmp_path_factory, text, name, real, integer):
    path = tmp_path_factory.getbasetemp() / "back.csv"
    write_results(path, [Run(Path("run"), {"text": text, name: "=1+1", "real": real, "integer": integer, "null": None, "not_run": {}}, "done")])
    with open(path, newline="", encoding="utf-8") as file:
        header, values = csv.reader(file)
    read = dict(zip(header, values, strict=True))
    assert len(header) == len({"text", name, "real", "integer", "null"} - {"not_run"})
    if name not in ("text", "real", "integer", "null", "not_run"):
        assert read == {"text": text, name: "=1+1", "real": repr(real), "integer": str(integer), "null": ""}


def test_missing_data_is_said_instead_of_drawn(tmp_path):
    reasons = {"latency": "evaluate.latency is false", "top1_best_val": "arm", "epoch_best_val": "arm"}
    run = make_run(tmp_path, latency=None, not_run=reasons)
    (run / "arch.json").unlink()
    text = build_report([run], tmp_path / "out").read_text()
    for words in ("evaluate.latency is false", "no run directory holds an arch.json", "no pruner here searches", "no pruner has both a fine-tune and a re-init arm"):
        assert words in text
    assert {path.name for path in (tmp_path / "out/figures").iterdir()} == {"net0-accuracy.svg", "net0-cost.svg"}


def test_a_journal_that_is_damaged_or_missing_is_named(tmp_path):
    one, two = (make_run(tmp_path, config_of(GREEDY, budget)) for budget in (0.5, 0.25))
    first, second = sorted((tmp_path / "stages").glob("*/journal.jsonl"))
    first.write_bytes(first.read_bytes().replace(b"0.5", b"0.6"))
    second.unlink()
    text = build_report([one, two], tmp_path / "out").read_text()
    assert "line 2 is damaged" in text and "its search stage is not beside it" in text


@pytest.mark.parametrize("damage, words", [
    (lambda row: row | {"schema": "goodsubnets/result/2"}, "goodsubnets/result/1"),
    (lambda row: row | {"schema": 7}, "schema is 7"),
    (lambda row: {name: value for name, value in row.items() if name != "top1"}, "top1 is missing"),
    (lambda row: row | {"macs": "many"}, "macs is 'many'"),
    (lambda row: row | {"top1": True}, "top1 is True"),
    (lambda row: row | {"top1_dense": 101}, "top1_dense is 101"),
    (lambda row: row | {"stages": {"search": "../../secret"}}, "stages is"),
    (lambda row: row | {"select_seconds": float("nan")}, "NaN is no number"),
    (lambda row: row | {"model": "\ud800"}, "cannot be read"),
    (lambda row: [row], "holds no object"),
])  # fmt: skip
def test_a_damaged_or_newer_result_is_one_error_naming_the_file(tmp_path, damage, words):
    run = make_run(tmp_path)
    write(run / "result.json", damage(json.loads((run / "result.json").read_text())))
    with pytest.raises(BadInput) as refusal:
        build_report([run], tmp_path / "out")
    assert str(run / "result.json") in str(refusal.value) and words in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_torn_result_names_the_file(tmp_path):
    run = make_run(tmp_path)
    (run / "result.json").write_bytes((run / "result.json").read_bytes()[:100])
    with pytest.raises(BadInput, match="result.json: cannot be read"):
        build_report([run], tmp_path / "out")


@pytest.mark.parametrize("entries", [[{"run": "../x", "state": "done"}], [{"run": "x", "state": "odd"}], [{"state": "done"}], ["x"], "x", None])
def test_a_group_that_names_no_run_is_refused(tmp_path, entries):
    group = make_group(tmp_path, {})
    write(group / "group.json", {"name": "demo", "hash": "0" * 8, "runs": entries})
    with pytest.raises(BadInput, match="group.json: is damaged"):
        build_report([group], tmp_path / "out")


def test_a_path_that_is_no_run_and_one_that_is_not_finished_are_refused(tmp_path):
    with pytest.raises(BadInput, match="is no run or group directory"):
        build_report([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(BadInput, match="holds no finished run"):
        build_report([make_run(tmp_path, done=False)], tmp_path / "out")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BadInput, match="give another --out"):
        build_report([make_run(tmp_path / "done")], file)


def test_the_verb_prints_the_page_last_and_loads_neither_torch_nor_ray_nor_wandb(tmp_path):
    run = make_run(tmp_path)
    told = (
        "import sys\nfrom pipeline.cli import main\ncode = main(sys.argv[1:])\n"
        "print(code, sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'ray', 'wandb', 'timm', 'torchvision'}), file=sys.stderr)\n"
    )
    found = subprocess.run([sys.executable, "-c", told, "report", run, "--out", tmp_path / "out"], capture_output=True, text=True, cwd=ROOT)
    assert found.stderr == "0 []\n"
    assert found.stdout.splitlines()[-1] == str(tmp_path / "out/report.html")


def test_bad_input_of_the_verb_is_one_line_with_code_2(tmp_path):
    found = run_gfs("report", tmp_path, "--out", tmp_path / "out")
    assert found.returncode == 2
    assert found.stderr.startswith(f"gfs: error: {tmp_path}: is no run or group directory") and found.stderr.count("\n") == 1


def test_commands_can_be_given_as_they_are(tmp_path, small_config):
    """A run of the product itself; its command, taken from the report, finds the same run."""
    finished = run_gfs("run", "-c", small_config, "prune.selector=l1", "prune.refit=none", "arm=none", "tracking.mode=off")
    assert finished.returncode == 0, finished.stderr
    folder = finished.stdout.splitlines()[-1]
    reported = run_gfs("report", folder, "--out", tmp_path / "out")
    assert reported.returncode == 0, reported.stderr
    block = (tmp_path / "out/report.md").read_text().partition("## Commands")[2]
    (command,) = [line for line in block.splitlines() if line.startswith("gfs ")]
    again = run_gfs(*command.split()[1:])
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == folder
    assert "100.0 % of dense" not in (tmp_path / "out/report.html").read_text()


def test_a_field_that_the_contract_does_not_know_is_kept(tmp_path):
    run = make_run(tmp_path, extra="more", nested={"a": 1})
    build_report([run], tmp_path / "out")
    header = (tmp_path / "out/results.csv").read_text().splitlines()[0]
    assert '"extra"' in header and "nested" not in header


def test_the_made_rows_differ_where_their_settings_do():
    assert row_of(config_of(seed=0))["run_hash"] != row_of(config_of(seed=1))["run_hash"]
