#!/usr/bin/env bash
# The untrained table: {reconstruction, l1, random} x {none, lsq} x {50, 25 %} of prunable MACs, uniform, three seeds.
# Resumable: finished runs are found finished. usage: reports/untrained/run.sh [RUNS_DIR]; then collect.py RUNS_DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${1:-runs}
for budget in 50% 25%; do
  for selector in reconstruction l1 random; do
    for refit in lsq none; do
      for seed in 0 1 2; do
        .venv/bin/gfs run -c configs/quickstart.yaml sweep={} cluster.workers=0 tracking.mode=off name=untrained arm=none evaluate.latency=false prune.allocation=uniform runs_dir="$runs" \
          "budget.prunable_macs=$budget" "prune.selector=$selector" "prune.refit=$refit" "seed=$seed" | tail -1
      done
    done
  done
done
