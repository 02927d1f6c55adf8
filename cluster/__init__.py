"""genrec on many machines: files for Kubernetes, `ray up` and Serve, and jobs through Ray's Jobs API.

An application on top of genrec, run from a checkout: ``python -m cluster``.
"""
