"""What we claim about speed, measured; each prints a table and writes `benchmarks/results/<name>.json`."""
