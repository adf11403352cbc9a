"""Weights & Biases as a mirror of a run's metrics.jsonl, written by a process of its own: nothing that happens there touches the run."""
