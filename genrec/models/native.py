"""The folded network of one history by a library of our own (one_history.c), where a C compiler is at hand.

The library is compiled once, when it is first asked for, for this machine's processor, and kept in the user's cache
folder under the sum of its source, compiler and processor. Without a compiler, or with ``GENREC_NATIVE=off`` in the
environment, :mod:`genrec.models.folded` computes with torch alone: the numbers are the same but for rounding.

Shape letters: genrec/models/contracts.py; I = H * d, X beams of a step.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from genrec.products import Product

logger = logging.getLogger(__name__)
SWITCH = "GENREC_NATIVE"
"""Environment variable; ``off``: torch alone."""
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fPIC", "-shared")
SECONDS_TO_COMPILE = 120
PANEL = 32
"""Columns of a panel, as in one_history.c."""


class _Layer(ctypes.Structure):
    names = ("qkv", "out", "wide", "narrow", "query", "cross_out", "keys_values")
    _fields_ = [(name, ctypes.c_void_p) for name in names]


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("width", "heads", "head_width", "feed", "vocabulary", "layers")),
        ("floor", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embedding", "table", "head")),
        ("stack", ctypes.POINTER(_Layer)),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None: switched off, no compiler, or one that cannot compile it."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return None
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        logger.info("no C compiler: single histories are decoded by torch")
        return None
    try:
        with as_file(files(__package__) / "one_history.c") as source:
            return ctypes.CDLL(str(_compiled(compiler, source)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # a home that cannot be told is a RuntimeError
        logger.warning("single histories are decoded by torch: one_history.c was not compiled (%s)", error)
        return None


def _compiled(compiler: str, source: Path) -> Path:
    """The library of ``source``, compiled unless it was."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=SECONDS_TO_COMPILE)
    told = [source.read_bytes(), version.stdout, " ".join(FLAGS).encode(), _processor()]
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genrec"
    made = cached / f"one_history-{hashlib.sha256(b''.join(told)).hexdigest()[:16]}.so"
    if not made.exists():
        cached.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached) as folder:
            begun = Path(folder) / made.name
            command = [compiler, *FLAGS, "-o", str(begun), str(source), "-lm"]
            subprocess.run(command, capture_output=True, check=True, timeout=SECONDS_TO_COMPILE)
            begun.replace(made)
    return made


def _processor() -> bytes:
    """What tells processors apart that cannot run each other's programs."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    return b"".join(sorted({line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}))


@dataclass(frozen=True)
class OneMemory:
    """What beams of one history attend to, as one_history.c reads it.

    Attributes:
        keys: [layers, I, T'], positions as columns.
        values: [layers * T * I] and slack.
        length: T.
    """

    keys: Tensor
    values: Tensor
    length: int


class OneHistory:
    """A network's weights as one_history.c reads them.

    Args:
        embedding: [V, D].
        table: [V, 3 * I], the first layer's queries, keys and values of each code; None: computed.
        layers: the matrices of each layer by name.
        heads: H.
        floor: added, squared, to a norm's sum of squares.
        head: D to V; None: an encoder.
    """

    def __init__(
        self,
        embedding: Tensor,
        table: Tensor | None,
        layers: Sequence[dict[str, Product]],
        heads: int,
        floor: float,
        head: Product | None = None,
    ) -> None:
        found = library()
        assert found is not None
        self._library = found
        self.layers, self.heads = len(layers), heads
        self.width, self.inner = embedding.shape[1], layers[0]["out"].inputs
        self.vocabulary = 0 if head is None else head.plain_IO.shape[1]
        self._kept: list[Tensor] = []
        """What the addresses below point at."""
        self._stack = (_Layer * self.layers)()
        for layer, products in zip(self._stack, layers, strict=True):
            for name, product in products.items():
                setattr(layer, name, self._address(_panels(product)))
        self._network = _Network(
            width=self.width,
            heads=heads,
            head_width=self.inner // heads,
            feed=layers[0]["narrow"].inputs,
            vocabulary=self.vocabulary,
            layers=self.layers,
            floor=floor,
            embedding=self._address(embedding),
            table=None if table is None else self._address(table),
            head=None if head is None else self._address(_panels(head)),
            stack=self._stack,
        )

    def encode(self, tokens_T: Tensor, bias_HTT: Tensor) -> Tensor:
        """States [T, D] of an encoder, the last norm without its gain."""
        tokens_T, bias_HTT = tokens_T.contiguous(), bias_HTT.contiguous()
        states_TD = bias_HTT.new_empty(len(tokens_T), self.width)
        self._call("encode", tokens_T, len(tokens_T), bias_HTT, states_TD)
        return states_TD

    def read(self, states_TD: Tensor) -> OneMemory:
        """Keys and values of a memory, for :meth:`step`."""
        states_TD = states_TD.contiguous()
        length = len(states_TD)
        keys = states_TD.new_empty(self.layers, self.inner, _padded(length))
        values = states_TD.new_empty(self.layers * length * self.inner + PANEL)
        self._call("read_memory", states_TD, length, keys, values)
        return OneMemory(keys, values, length)

    def step(self, tokens_X: Tensor, position: int, kept_SLX2I: Tensor, bias_SH: Tensor, memory: OneMemory) -> Tensor:
        """Logits [X, V] after one further code per beam.

        Args:
            tokens_X: the codes.
            position: of them.
            kept_SLX2I: keys and values of the positions before; those of ``position`` are written there.
            bias_SH: position bias for each position up to this one.
            memory: what is attended to.
        """
        tokens_X, bias_SH = tokens_X.contiguous(), bias_SH.contiguous()
        assert kept_SLX2I.is_contiguous()
        count = len(tokens_X)
        logits = kept_SLX2I.new_empty(count, _padded(self.vocabulary))
        read = (memory.keys, memory.values, memory.length)
        self._call("advance", tokens_X, count, position, kept_SLX2I, bias_SH, *read, logits)
        return logits[:, : self.vocabulary]

    def _call(self, name: str, *given: Tensor | int) -> None:
        values = [
            ctypes.c_void_p(each.data_ptr()) if isinstance(each, Tensor) else ctypes.c_int64(each) for each in given
        ]
        if getattr(self._library, name)(ctypes.byref(self._network), *values) != 0:
            raise MemoryError(f"{name}: no room for a history of this length")

    def _address(self, tensor: Tensor) -> int:
        self._kept.append(tensor.contiguous())
        return self._kept[-1].data_ptr()


def _padded(count: int) -> int:
    return -(-count // PANEL) * PANEL


def _panels(product: Product) -> Tensor:
    """[O' / 32, I, 32]: a product's matrix in panels of columns, zero beyond the last."""
    inputs, outputs = product.plain_IO.shape
    wide = functional.pad(product.plain_IO, (0, _padded(outputs) - outputs))
    return wide.view(inputs, -1, PANEL).transpose(0, 1).contiguous()
