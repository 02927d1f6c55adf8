"""The interface of all quantizers, and residual quantization, which most of them share.

Residual quantization: the first level's codebook approximates the vector, each further level what the
levels before left over. Shape letters: N items, E embedding width, D width of the quantized vector, L
levels, V codes of a level. A codebook row of NaN means "no such centroid": it is never chosen by
``encode`` and comes last among distances.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from genrec.errors import ArtifactError

FloatRows = NDArray[np.float32]
Codes = NDArray[np.int32]
CHUNK = 16_384
"""Rows handled at once; embeddings may be a memory-mapped array far larger than memory."""
FAR = 1e30
"""Distance to a code that has no centroid."""


class Quantizer(ABC):
    """Item embeddings to codes and back; frozen once fitted."""

    kind: ClassVar[str]

    def __init__(self, level_sizes: Sequence[int]) -> None:
        self.level_sizes = tuple(int(size) for size in level_sizes)

    @property
    def n_levels(self) -> int:
        """L, the number of levels."""
        return len(self.level_sizes)

    @abstractmethod
    def fit(self, embeddings_NE: FloatRows) -> dict[str, float]:
        """Learn the codebooks; returns what is worth logging (losses, epochs)."""

    @abstractmethod
    def encode(self, embeddings_NE: FloatRows) -> Codes:
        """int32 [N, L], the codes nearest to each embedding (not yet unique)."""

    @abstractmethod
    def decode(self, codes_NL: NDArray[np.integer]) -> FloatRows:
        """float32 [N, E], the embeddings that the codes stand for."""

    @abstractmethod
    def distances(self, embeddings_NE: FloatRows, codes_NL: NDArray[np.integer], level: int) -> FloatRows:
        """float32 [N, V], squared distance to every code of ``level``, the codes before it being given."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """The fitted state."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take the fitted state that :meth:`tensors` gave."""

    def options(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        return {"level_sizes": list(self.level_sizes)}

    def save(self, directory: Path, name: str = "text") -> None:
        """Write ``quantizer_<name>.safetensors``."""
        # One entry: safetensors writes several in an order that changes from run to run.
        meta = {"genrec": json.dumps({"kind": self.kind, "options": self.options()}, sort_keys=True)}
        tensors = {key: np.ascontiguousarray(value) for key, value in self.tensors().items()}
        save_file(tensors, directory / f"quantizer_{name}.safetensors", meta)

    @classmethod
    def load(cls, directory: Path, name: str = "text") -> Self:
        """Read what :meth:`save` of this class wrote.

        Raises:
            ArtifactError: absent, unreadable or of another kind.
        """
        kind, options = quantizer_meta(directory, name)
        if kind != cls.kind:
            raise ArtifactError(f"{directory}: holds a {kind!r} quantizer, not {cls.kind!r}. Run `tokenize` again.")
        quantizer = cls(**options)
        quantizer.restore(load_file(directory / f"quantizer_{name}.safetensors"))
        return quantizer


def quantizer_meta(directory: Path, name: str) -> tuple[str, dict[str, Any]]:
    """Kind and constructor options of the quantizer saved in ``directory``.

    Raises:
        ArtifactError: absent or unreadable.
    """
    from safetensors import safe_open

    path = directory / f"quantizer_{name}.safetensors"
    if not path.is_file():
        raise ArtifactError(f"{path}: no quantizer there. Run `tokenize` first.")
    try:
        with safe_open(path, framework="numpy") as stream:
            meta = json.loads(stream.metadata()["genrec"])
        return meta["kind"], meta["options"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a quantizer of genrec ({error}). Run `tokenize` again.") from error


def squared_distances(rows_ND: Tensor, codebook_VD: Tensor) -> Tensor:
    """float [N, V], squared Euclidean distances; FAR where the codebook row is NaN."""
    square_V = (codebook_VD * codebook_VD).sum(1)
    distances_NV = torch.addmm(square_V, rows_ND, codebook_VD.T, alpha=-2.0)
    distances_NV += (rows_ND * rows_ND).sum(1, keepdim=True)
    return torch.nan_to_num(distances_NV, nan=FAR)


class ResidualQuantizer(Quantizer):
    """Residual quantization with one codebook a level, in a space that subclasses may map to and from."""

    codebooks: list[Tensor]

    def to_latent(self, embeddings_NE: Tensor) -> Tensor:
        """Embeddings [N, E] to the quantized space [N, D]."""
        return embeddings_NE

    def from_latent(self, latent_ND: Tensor) -> Tensor:
        """Quantized vectors [N, D] to embeddings [N, E]."""
        return latent_ND

    @torch.inference_mode()
    def encode(self, embeddings_NE: FloatRows) -> Codes:
        """int32 [N, L], level by level the code nearest to the residual."""
        codes_NL = np.empty((len(embeddings_NE), self.n_levels), dtype=np.int32)
        for begin in range(0, len(embeddings_NE), CHUNK):
            residual_ND = self.to_latent(_chunk(embeddings_NE, begin)).clone()
            for level, codebook_VD in enumerate(self.codebooks):
                code_N = squared_distances(residual_ND, codebook_VD).argmin(1)
                residual_ND -= codebook_VD[code_N]
                codes_NL[begin : begin + CHUNK, level] = code_N.numpy()
        return codes_NL

    @torch.inference_mode()
    def decode(self, codes_NL: NDArray[np.integer]) -> FloatRows:
        """float32 [N, E], the sum of the codes' centroids, mapped back."""
        codes = torch.as_tensor(np.asarray(codes_NL, dtype=np.int64))
        return self.from_latent(self._sum(codes, self.n_levels)).numpy()

    @torch.inference_mode()
    def distances(self, embeddings_NE: FloatRows, codes_NL: NDArray[np.integer], level: int) -> FloatRows:
        """float32 [N, V], distance of the residual before ``level`` to that level's codes."""
        codes = torch.as_tensor(np.asarray(codes_NL, dtype=np.int64))
        distances_NV = np.empty((len(embeddings_NE), self.level_sizes[level]), dtype=np.float32)
        for begin in range(0, len(embeddings_NE), CHUNK):
            rows = slice(begin, begin + CHUNK)
            residual_ND = self.to_latent(_chunk(embeddings_NE, begin)) - self._sum(codes[rows], level)
            distances_NV[rows] = squared_distances(residual_ND, self.codebooks[level]).numpy()
        return distances_NV

    def _sum(self, codes_NL: Tensor, n_levels: int) -> Tensor:
        total_ND = torch.zeros(len(codes_NL), self.codebooks[0].shape[1])
        for level in range(n_levels):
            # A code without a centroid adds nothing (only a published or re-allocated ID can hold one).
            total_ND += torch.nan_to_num(self.codebooks[level][codes_NL[:, level]])
        return total_ND

    def tensors(self) -> dict[str, NDArray[Any]]:
        """``codebook_<level>``: float32 [V, D]."""
        return {f"codebook_{level}": book.detach().numpy() for level, book in enumerate(self.codebooks)}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take codebooks back."""
        self.codebooks = [torch.from_numpy(tensors[f"codebook_{level}"]) for level in range(self.n_levels)]


def _chunk(embeddings_NE: FloatRows, begin: int) -> Tensor:
    return torch.from_numpy(np.array(embeddings_NE[begin : begin + CHUNK], dtype=np.float32))
