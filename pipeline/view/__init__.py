"""How runs and groups look to people: lines, tables, the live view, logs. Reads through pipeline.stages and never needs torch."""
