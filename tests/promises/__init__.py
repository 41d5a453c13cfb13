"""The numbered promises of docs/contract.rst, tested with many processes."""
