"""One trial of a sweep: one run, in a process that Ray Tune places and reuses."""

import os
import sys
import traceback

from pipeline.config.settings import Cluster

FAILED, STOPPED, DONE = "failed", "stopped", "done"


def bundles(cluster: Cluster) -> list[dict[str, float]]:
    """What a trial holds: its workers' share each, one core without workers; the coordinator adds none."""
    one = {"CPU": cluster.cpus} | ({"GPU": cluster.gpus} if cluster.gpus else {})
    return [one] * max(cluster.workers, 1)


def run_trial(spec: dict) -> dict:
    """Run the chain with `spec` = {plain, place, cwd, path, group}; how it ended.

    Errors of the run are told by its directory (error.json), not to Tune: only a process that dies is Tune's to try again.
    """
    os.chdir(spec["cwd"])  # Tune changes to a directory of its own
    sys.path[:] = spec["path"] + [entry for entry in sys.path if entry not in spec["path"]]
    from pipeline.chain.run import run_chain
    from pipeline.config.errors import Stopped
    from pipeline.config.files import DISK_FULL
    from pipeline.config.load import check_plain

    try:
        run_chain(check_plain(spec["plain"], spec["place"]), group=spec["group"])
        return {"state": DONE}
    except Stopped as error:
        return {"state": STOPPED, "message": str(error)}
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return {"state": STOPPED, "message": f"{error.filename or 'a file'}: {error.strerror}; make room and run the same command"}
        traceback.print_exc()
        return {"state": FAILED, "message": str(error)}
