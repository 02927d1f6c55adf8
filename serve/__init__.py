"""The Ray Serve application around a bundle: ``python -m serve``.

Import from its modules (``from serve.app import build``); Ray's own library is ``from ray import serve``.
"""
