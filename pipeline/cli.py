"""The console command: verbs to functions, exceptions to exit codes; no logic of its own."""

import argparse
import os
import sys
import traceback
from importlib.metadata import version

from pipeline.bench.verbs import add_benches
from pipeline.config.errors import BadInput, Failed, Stopped
from pipeline.config.files import DISK_FULL
from pipeline.config.stopping import finish, raise_on_signals

PATH = "a directory that `gfs run` or `gfs sweep` printed"


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; 0 done, 1 failed, 2 bad input, 75 stopped but resumable."""
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as fast alone; beside other work idle threads would spin it to a crawl
    options = _options(_parser(), arguments)
    try:
        raise_on_signals()
        options.verb(options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # of stdout: it is written to when the work is done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (BadInput, Failed, Stopped) as error:
        return _report(options, error, error.exit_code)
    except OSError as error:
        if error.errno in DISK_FULL:
            return _report(options, Stopped(f"{error.filename or 'a file'}: {error.strerror}; make room and run the same command"), 75)
        return _report(options, error, 1)
    except Exception as error:
        return _report(options, error, 1)
    finally:
        finish()


def _options(parser, arguments):
    """The parsed arguments; overrides may stand before and after other options, which argparse alone does not allow."""
    options, rest = parser.parse_known_args(arguments)
    if rest and ("overrides" not in options or any(part.startswith("-") for part in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _report(options, error, code: int) -> int:
    if options.debug:
        traceback.print_exception(error)
    known = isinstance(error, (BadInput, Failed, Stopped, OSError))
    text = str(error) if known else f"{type(error).__name__}: {error} (this is a fault of the program; --debug shows where)"
    print(f"gfs: error: {' '.join(text.split())}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"gfs: error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gfs", description="Structured pruning by greedy selection.")
    parser.add_argument("--version", action="version", version=f"goodsubnets {version('goodsubnets')}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)

    def verb(name, function, description, parent=verbs):
        added = parent.add_parser(name, help=description, description=description)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.set_defaults(verb=function)
        return added

    run = _with_config(verb("run", _run, "one run: every stage of the config, resuming what exists"))
    run.add_argument("--until", metavar="STAGE", help="stop after data, dense, baseline, search, shrink, ... and print that stage's directory")
    sweep = _with_config(verb("sweep", _sweep, "a group: every combination of the config's sweep lists, resuming what exists; then the report"))
    sweep.add_argument("--part", metavar="N", type=int, help="only run number N (from 0) of the group, in this process: for array jobs")
    submit = verbs.add_parser("submit", help="a cluster job").add_subparsers(required=True, metavar="WHERE", parser_class=_Parser)
    slurm = _with_config(verb("slurm", _submit_slurm, "an sbatch job for a run, or a group where the config has sweep lists; prints its id", submit))
    slurm.add_argument("--site", metavar="FILE", help="partition, account, sizes, ...; default: GFS_SITE, else ~/.config/goodsubnets/slurm.yaml")
    slurm.add_argument("--array", action="store_true", help="a group as an array, each run a task; else one job with Ray Tune")
    slurm.add_argument("--dry-run", action="store_true", help="only print the script")
    _with_config(verb("check", _check, "dry run: config, data, network, dense accuracy, budgets, estimates"))
    bench = verbs.add_parser("bench", help="measured ratios").add_subparsers(required=True, metavar="WHAT", parser_class=_Parser)
    add_benches(lambda name, function, description: verb(name, function, description, bench))
    status = verb("status", _status, "where a run or a group stands")
    status.add_argument("path", help=PATH)
    status.add_argument("--json", action="store_true", help="one object, as the schema `status` says")
    verb("watch", _watch, "a run or a group, live, until its work ends; Ctrl-C ends the watching only").add_argument("path", help=PATH)
    logs = verb("logs", _logs, "the log of a run; of a group those of all its runs, merged by time")
    logs.add_argument("path", help=PATH)
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until the work ends")
    cancel = verb("cancel", _cancel, "stop a live run or group of this machine so that the same command goes on")
    cancel.add_argument("path", help=PATH)
    export = verb("export", _export, "the network of a finished run as ONNX, compared with torch by onnxruntime")
    export.add_argument("path", help="a directory that `gfs run` printed")
    clean = verb("clean", _clean, "remove stages that no run names, and what kills left behind")
    clean.add_argument("runs_dir", nargs="?", default="runs", metavar="RUNS_DIR", help="the place of runs; default: runs")
    clean.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    report = verb("report", _make_report, "tables, figures and one page from run and group directories")
    report.add_argument("paths", nargs="+", metavar="PATH", help=PATH)
    report.add_argument("--out", required=True, metavar="DIR", help="report.html, report.md, results.csv, tables.tex and figures/ go there")
    shards = verbs.add_parser("shards", help="make or verify WebDataset shards").add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    make = verb("make", _make_shards, "shards and manifests from fashion-mnist or an image folder", shards)
    make.add_argument("source", help="fashion-mnist, or a folder of images")
    make.add_argument("destination", help="a new folder")
    verify = verb("verify", _verify_shards, "check counts, sizes, sha256 and labels of a manifest or a folder of them", shards)
    verify.add_argument("path", help="a manifest.json, or what `gfs shards make` printed")
    return parser


def _with_config(parser):
    parser.add_argument("-c", "--config", required=True, metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings that replace those of the file")
    return parser


def _run(options) -> None:
    from pipeline.config.load import load_config

    config = load_config(options.config, options.overrides)  # a fault of the file is told before torch is loaded

    from pipeline.chain.run import run_chain
    from pipeline.chain.summary import summarise

    finished = run_chain(config, options.until)
    if finished.result:
        print(summarise(finished.folder, finished.result))
        print()
    print(finished.folder)


def _sweep(options) -> None:
    from pipeline.chain.plan import plan_sweep
    from pipeline.chain.summary import summarise_group

    sweep = plan_sweep(options.config, options.overrides)

    from pipeline.report.build import build_report

    if options.part is not None:
        from pipeline.cluster.part import run_part

        run_part(sweep, options.part, lambda folder: build_report([folder], folder / "report"))
        return print(sweep.folder)

    from pipeline.cluster.sweep import run_sweep
    from pipeline.view.watching import group_shown
    with group_shown(sweep.folder, sys.stderr):
        group = run_sweep(sweep, lambda folder: build_report([folder], folder / "report"))
    print(summarise_group(sweep.folder, group))
    print(sweep.folder)
    failed = [run for run in group["runs"] if run["state"] == "failed"]
    if failed:
        raise Failed(f"group {sweep.folder.name}: {len(failed)} of {len(group['runs'])} runs failed; {failed[0]['run']}: {failed[0]['error']}")


def _submit_slurm(options) -> None:
    from pipeline.submit.site import load_site

    site = load_site(options.site)

    from pipeline.submit.job import plan_job, submit_job
    from pipeline.submit.submitted import at_work

    planned = plan_job(options.config, options.overrides, site, options.array)
    if options.dry_run:
        print(planned.text, end="")
    elif planned.is_done:
        print(f"{planned.folder}: is done; nothing was submitted", file=sys.stderr)
    else:
        submission = submit_job(planned, at_work)
        print(planned.folder)
        print(submission.id)


def _check(options) -> None:
    from pipeline.config.load import combine, load_config, read_plain

    plain = read_plain(options.config, options.overrides)
    if len(combine(plain)) > 1:
        from pipeline.chain.check import check_sweep
        from pipeline.chain.plan import plan_sweep

        check_sweep(plan_sweep(options.config, options.overrides), print)
    else:
        config = load_config(options.config, options.overrides)

        from pipeline.chain.check import check_run

        check_run(config, print)
    print("ok")


def _status(options) -> None:
    import json

    from pipeline.stages.status import open_status
    from pipeline.view.table import print_group
    from pipeline.view.words import describe

    looked = open_status(options.path)
    status = looked.look()
    if not options.json and "runs" in status:
        print_group(looked, status, sys.stdout)
    print(json.dumps(status) if options.json else describe(status))


def _watch(options) -> None:
    from pipeline.view.watching import watch

    watch(options.path, sys.stdout)


def _logs(options) -> None:
    from pipeline.view.logs import show_logs

    show_logs(options.path, options.follow, lambda line: print(line, flush=options.follow))


def _cancel(options) -> None:
    from pipeline.stages.cancel import cancel

    print(cancel(options.path, lambda line: print(line, file=sys.stderr)))


def _export(options) -> None:
    from pipeline.chain.export import export_run

    path, difference = export_run(options.path)
    print(f"largest difference from torch: {difference:.1e} (relative, float32)")
    print(path)


def _clean(options) -> None:
    from pipeline.stages.cleaning import clean
    from pipeline.view.words import describe_cleaning

    cleaned = clean(options.runs_dir, options.dry_run)
    for stage, reason in cleaned.kept.items():
        print(f"notice: keeps {stage}: {reason}", file=sys.stderr)
    print("\n".join(describe_cleaning(cleaned, options.dry_run)))


def _make_report(options) -> None:
    from pipeline.report.build import build_report

    print(build_report(options.paths, options.out))


def _make_shards(options) -> None:
    from pipeline.data.shards import make_shards
    from pipeline.stages.recorder import Recorder

    for split, manifest in make_shards(options.source, options.destination, Recorder(None)).items():
        print(f"{split}: {manifest.samples} images in {len(manifest.shards)} shards")
    print(options.destination)


def _verify_shards(options) -> None:
    from pipeline.data.manifest import load_manifest
    from pipeline.data.shards import find_manifests, verify_manifest
    from pipeline.stages.recorder import Recorder

    for path in find_manifests(options.path):
        manifest = load_manifest(path)
        verify_manifest(manifest, Recorder(None))
        print(f"{path}: {manifest.samples} images in {len(manifest.shards)} shards, {len(manifest.classes)} classes")
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
