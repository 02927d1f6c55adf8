"""Metrics over EvalFrames, intervals, significance and the report."""
