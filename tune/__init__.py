"""Sweeps of settings on Ray Tune: spaces, driver, records, logs and report. Run from a checkout: ``python -m tune``."""
