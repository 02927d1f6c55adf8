"""Frozen item encoders: item texts to embeddings, cached by content, spread by Ray Data where Ray runs."""

from genrec.encoders.catalog import encode_catalog
from genrec.encoders.protocol import TextEncoder
from genrec.encoders.registry import fit_encoder, load_encoder, save_encoder

__all__ = ["TextEncoder", "encode_catalog", "fit_encoder", "load_encoder", "save_encoder"]
