"""The scenarios. A file names the rows of docs/benchmarks.rst that it measures."""
