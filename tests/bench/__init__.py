"""The benchmark: whole processes side by side, as ratios. `python -m tests.bench`, or `invoke bench`."""
