"""Each claim of speed as a command: ``python -m benchmarks NAME``, both sides in one run, outputs equal first."""
