"""What a worker holds in memory for training, measured on the tensors that are there.

Bytes are counted by address, so that views of one buffer count once, and what a tensor shares with another
kind counts for the first: a copy of the weights that *is* the weights adds nothing. Room that a library
reserves for exchange and has not filled is not counted, nor are DDP's buckets, which hold gradients a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

MIB = 2**20
Interval = tuple[int, int]
"""First byte and the one after the last."""


@dataclass(frozen=True)
class Holdings:
    """Bytes of one worker.

    Attributes:
        parameters: weights between two steps.
        gradients: the most that were held at once during a backward pass.
        states: the optimizer's moments.
        copies: what the optimizer keeps of the weights beside them.
    """

    parameters: int
    gradients: int
    states: int
    copies: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)

    @classmethod
    def of(
        cls, parameters: Iterable[Tensor], gradients: int, states: Iterable[Tensor], copies: Iterable[Tensor] = ()
    ) -> Holdings:
        """Measure what is held after a step.

        Args:
            parameters: weights.
            gradients: from :class:`GradientPeak`.
            states: the optimizer's.
            copies: of weights.
        """
        weights, moments = list(parameters), list(states)
        held, with_states = bytes_of(weights), bytes_of([*weights, *moments])
        with_copies = bytes_of([*weights, *moments, *copies])
        return cls(held, gradients, with_states - held, with_copies - with_states)


class GradientPeak:
    """Follows how many bytes of gradients are held, from one parameter's gradient to the next.

    Args:
        parameters: that get gradients.
        held: the tensors that hold gradients now.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], held: Callable[[], Iterable[Tensor | None]]) -> None:
        self.bytes = 0
        self._held = held
        self._hooks: list[Any] = [
            parameter.register_post_accumulate_grad_hook(self._look)  # type: ignore[no-untyped-call]
            for parameter in parameters
            if parameter.requires_grad
        ]

    def close(self) -> None:
        """Look once more, and no longer follow."""
        if self._hooks:
            self._look(None)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _look(self, _: Any) -> None:
        self.bytes = max(self.bytes, bytes_of(self._held()))


def bytes_of(tensors: Iterable[Tensor | None]) -> int:
    """Bytes that the tensors hold together; each counts as contiguous, what they share counts once."""
    spans = sorted(_span(tensor) for tensor in tensors if tensor is not None and tensor.numel())
    total, end = 0, 0
    for begin, after in spans:
        total += max(0, after - max(begin, end))
        end = max(end, after)
    return total


def _span(tensor: Tensor) -> Interval:
    begin = tensor.data_ptr()
    return begin, begin + tensor.numel() * tensor.element_size()


def told(workers: Sequence[Holdings]) -> str:
    """One line about all workers: the range of each kind where they differ, in MiB."""
    rows = [worker.as_dict() for worker in workers]
    parts = []
    for name in rows[0]:
        values = [row[name] / MIB for row in rows]
        least, most = min(values), max(values)
        parts.append(f"{name} {least:.1f}" + (f" to {most:.1f}" if f"{most:.1f}" != f"{least:.1f}" else ""))
    return f"a worker of {len(rows)} holds, in MiB: " + ", ".join(parts)
