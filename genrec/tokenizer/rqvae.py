"""RQ-VAE: an autoencoder whose bottleneck is quantized residually (TIGER, arXiv 2305.05065, section 3.1).

    z = encoder(x);  r_0 = z;  c_l = argmin_c |r_l - e_lc|;  r_{l+1} = r_l - e_{l,c_l};  x' = decoder(sum of e)
    loss = |x - x'|^2 + sum_l |sg(r_l) - e_l|^2 + beta |r_l - sg(e_l)|^2

What keeps the codes from collapsing: each half of the autoencoder is TIGER's MLP beside a linear map that
starts as PCA, so the first latent is a good one already; it learns for some epochs without quantization,
then every level starts from k-means of the encoded residuals, and a code that no item used for an epoch
moves onto an item's residual. ``sinkhorn`` balances the assignment of the last level while training (LC-Rec,
arXiv 2311.09049), which leaves fewer collisions. Training ends when the reconstruction no longer improves.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from genrec.products import Linear
from genrec.tokenizer.quantizer import CHUNK, FloatRows, ResidualQuantizer, squared_distances
from genrec.tokenizer.residual_kmeans import (
    PCA_POINTS,
    POINTS_PER_CENTROID,
    principal_axes,
    residual_codebooks,
    sampled,
)

log = logging.getLogger(__name__)
WARMUP_SHARE = 0.2
PATIENCE = 8
FLAT = 0.01
"""Training ends after PATIENCE epochs without a relative gain of FLAT."""
SINKHORN_EPSILON, SINKHORN_ROUNDS = 0.05, 20


class RQVAE(ResidualQuantizer):
    """Residual quantization in the latent space of a small autoencoder.

    Args:
        level_sizes: V of each level.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        latent: D, width of the quantized vector.
        commitment: beta.
        epochs: at most so many passes over the items.
        batch_size: items a step.
        learning_rate: of Adam.
        sinkhorn: balance the last level while training.
        kmeans_iterations: of the start.
        seed: of weights, batches and k-means; equal seeds give equal bits.
    """

    kind = "rq-vae"

    def __init__(
        self,
        level_sizes: Sequence[int],
        *,
        hidden: Sequence[int] = (512, 256, 128),
        latent: int = 32,
        commitment: float = 0.25,
        epochs: int = 60,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        sinkhorn: bool = False,
        kmeans_iterations: int = 25,
        seed: int = 0,
    ) -> None:
        super().__init__(level_sizes)
        self.hidden = tuple(hidden)
        self.latent = latent
        self.commitment = commitment
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.sinkhorn = sinkhorn
        self.kmeans_iterations = kmeans_iterations
        self.seed = seed

    def options(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        names = ("latent", "commitment", "epochs", "batch_size", "learning_rate", "sinkhorn", "kmeans_iterations")
        chosen = {name: getattr(self, name) for name in (*names, "seed")}
        return {**super().options(), "hidden": list(self.hidden), **chosen}

    def to_latent(self, embeddings_NE: Tensor) -> Tensor:
        """Standardise, then encode: [N, E] -> [N, D]."""
        return self.encoder((embeddings_NE - self.mean_E) / self.scale)

    def from_latent(self, latent_ND: Tensor) -> Tensor:
        """Decode, then undo the standardisation: [N, D] -> [N, E]."""
        return self.decoder(latent_ND) * self.scale + self.mean_E

    def fit(self, embeddings_NE: FloatRows) -> dict[str, float]:
        """Train autoencoder and codebooks.

        Returns:
            epochs run, last reconstruction loss (1 = no better than the mean), codes revived.
        """
        rng = torch.Generator().manual_seed(self.seed)
        self._build(int(embeddings_NE.shape[1]), rng)
        self.mean_E, self.scale = _moments(embeddings_NE)
        self._start_linear(embeddings_NE)
        optimizer = torch.optim.Adam(self._weights(), lr=self.learning_rate)
        warmup = max(1, round(WARMUP_SHARE * self.epochs))
        for _ in range(warmup):
            for _, rows_BE in self._batches(embeddings_NE, rng):
                _step(optimizer, functional.mse_loss(self.decoder(self.encoder(rows_BE)), rows_BE))
        self._start_codebooks(embeddings_NE)
        optimizer.add_param_group({"params": self.codebooks})
        best, since, revived, epoch, loss = float("inf"), 0, 0, warmup, 0.0
        while epoch < self.epochs and since < PATIENCE:
            loss, further, dead = self._epoch(embeddings_NE, optimizer, rng)
            epoch, revived = epoch + 1, revived + dead
            since = 0 if loss + further < (1 - FLAT) * best else since + 1
            best = min(best, loss + further)
            log.debug("rq-vae epoch %d: reconstruction %.4f, %d codes revived", epoch, loss, dead)
        self.codebooks = [book.detach() for book in self.codebooks]
        return {"epochs": float(epoch), "reconstruction_loss": loss, "revived_codes": float(revived)}

    def _build(self, width: int, rng: torch.Generator) -> None:
        widths = (width, *self.hidden, self.latent)
        self.encoder = _Coder(widths, rng)
        self.decoder = _Coder(widths[::-1], rng)

    def _start_linear(self, embeddings_NE: FloatRows) -> None:
        sample_ME = torch.from_numpy(sampled(embeddings_NE, PCA_POINTS, self.seed))
        axes_DE = principal_axes((sample_ME - self.mean_E) / self.scale, self.latent)
        with torch.no_grad():
            self.encoder.linear.weight[: len(axes_DE)] = axes_DE
            self.decoder.linear.weight[:, : len(axes_DE)] = axes_DE.T

    def _weights(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def _start_codebooks(self, embeddings_NE: FloatRows) -> None:
        sample_ME = sampled(embeddings_NE, POINTS_PER_CENTROID * max(self.level_sizes), self.seed)
        with torch.no_grad():
            latent_MD = self.to_latent(torch.from_numpy(sample_ME)).numpy()
        books = residual_codebooks(
            latent_MD, self.level_sizes, iterations=self.kmeans_iterations, seed=self.seed + len(self.level_sizes)
        )
        # A catalog smaller than a level leaves codes without a centroid; they wait at zero for their revival.
        self.codebooks = [nn.Parameter(torch.nan_to_num(book)) for book in books]

    def _batches(self, embeddings_NE: FloatRows, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices int64 [B] and standardised embeddings [B, E] of each step's items."""
        order = torch.randperm(len(embeddings_NE), generator=rng).numpy()
        for begin in range(0, len(order), self.batch_size):
            rows = np.sort(order[begin : begin + self.batch_size])
            batch_BE = torch.from_numpy(np.asarray(embeddings_NE[rows], dtype=np.float32))
            yield torch.from_numpy(rows), (batch_BE - self.mean_E) / self.scale

    def _begin_epoch(self) -> None:
        """For subclasses: before each epoch with quantization."""

    def _further_loss(
        self, items_B: Tensor, straight_BD: Tensor, codes: Sequence[Tensor], rng: torch.Generator
    ) -> Tensor | float:
        """For subclasses: what is added to the loss of a step.

        Args:
            items_B: int64 [B], rows of the embeddings.
            straight_BD: quantized vectors whose gradient goes straight to the encoder.
            codes: int64 [B] of each level.
            rng: what to draw from.
        """
        return 0.0

    def _epoch(
        self, embeddings_NE: FloatRows, optimizer: torch.optim.Optimizer, rng: torch.Generator
    ) -> tuple[float, float, int]:
        """One pass: mean reconstruction loss, mean of what subclasses add, codes revived."""
        used = [torch.zeros(size, dtype=torch.int64) for size in self.level_sizes]
        residuals: list[Tensor] = []
        total, added, count = 0.0, 0.0, 0
        self._begin_epoch()
        for items_B, rows_BE in self._batches(embeddings_NE, rng):
            latent_BD = self.encoder(rows_BE)
            residual_BD, quantized_BD = latent_BD, torch.zeros_like(latent_BD)
            residuals, codes, quantization = [], [], torch.zeros(())
            for level, codebook_VD in enumerate(self.codebooks):
                code_B = self._assigned(residual_BD.detach(), codebook_VD.detach(), level)
                chosen_BD = codebook_VD[code_B]
                quantization = quantization + functional.mse_loss(chosen_BD, residual_BD.detach())
                quantization = quantization + self.commitment * functional.mse_loss(residual_BD, chosen_BD.detach())
                residuals.append(residual_BD.detach())
                codes.append(code_B)
                used[level] += torch.bincount(code_B, minlength=len(codebook_VD))
                quantized_BD = quantized_BD + chosen_BD
                residual_BD = residual_BD - chosen_BD.detach()
            straight_BD = latent_BD + (quantized_BD - latent_BD).detach()
            reconstruction = functional.mse_loss(self.decoder(straight_BD), rows_BE)
            # The formula sums over dimensions; both terms here are means, over E and over D of them.
            loss = reconstruction + self.latent / rows_BE.shape[1] * quantization
            further = self._further_loss(items_B, straight_BD, codes, rng)
            _step(optimizer, loss + further)
            total, count = total + reconstruction.item() * len(rows_BE), count + len(rows_BE)
            added += float(torch.as_tensor(further).detach()) * len(rows_BE)
        return total / count, added / count, self._revive(used, residuals, optimizer, rng)

    def _assigned(self, residual_BD: Tensor, codebook_VD: Tensor, level: int) -> Tensor:
        distances_BV = squared_distances(residual_BD, codebook_VD)
        if self.sinkhorn and level == self.n_levels - 1:
            return balanced(distances_BV).argmax(1)
        return distances_BV.argmin(1)

    @torch.no_grad()
    def _revive(
        self, used: list[Tensor], residuals: list[Tensor], optimizer: torch.optim.Optimizer, rng: torch.Generator
    ) -> int:
        """Move codes without an item in the whole epoch onto residuals of the last batch."""
        revived = 0
        for codebook_VD, used_V, residual_BD in zip(self.codebooks, used, residuals, strict=True):
            dead = torch.nonzero(used_V == 0).flatten()
            dead = dead[: len(residual_BD)]
            rows = torch.randperm(len(residual_BD), generator=rng)[: len(dead)]
            codebook_VD[dead] = residual_BD[rows]
            for moment in ("exp_avg", "exp_avg_sq"):
                optimizer.state[codebook_VD][moment][dead] = 0.0
            revived += len(dead)
        return revived

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Codebooks, weights of the MLPs, mean and scale."""
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        weights = {
            f"{part}.{key}": value.numpy() for part, mlp in parts.items() for key, value in mlp.state_dict().items()
        }
        return {**super().tensors(), **weights, "mean": self.mean_E.numpy(), "scale": self.scale.numpy()}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take the trained state back."""
        super().restore(tensors)
        self.mean_E, self.scale = torch.from_numpy(tensors["mean"]), torch.from_numpy(tensors["scale"])
        self._build(len(self.mean_E), torch.Generator())
        for part, mlp in (("encoder", self.encoder), ("decoder", self.decoder)):
            prefix = f"{part}."
            state = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in tensors.items() if k.startswith(prefix)}
            mlp.load_state_dict(state)


def balanced(distances_BV: Tensor) -> Tensor:
    """Sinkhorn-Knopp: assignment weights [B, V] whose columns have equal sums, so all codes are used alike."""
    spread = distances_BV.mean().clamp_min(1e-12)
    log_BV = -distances_BV / (SINKHORN_EPSILON * spread)
    for _ in range(SINKHORN_ROUNDS):
        log_BV = log_BV - torch.logsumexp(log_BV, 0, keepdim=True)
        log_BV = log_BV - torch.logsumexp(log_BV, 1, keepdim=True)
    return log_BV.exp()


class _Coder(nn.Module):
    """A linear map beside an MLP that starts at zero and learns what the linear map leaves over."""

    def __init__(self, widths: Sequence[int], rng: torch.Generator) -> None:
        super().__init__()
        self.linear = _linear(widths[0], widths[-1], rng)
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(widths):
            layers += [_linear(wide, narrow, rng), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])
        nn.init.zeros_(layers[-2].weight)  # type: ignore[arg-type]

    def forward(self, rows: Tensor) -> Tensor:
        """[N, first width] -> [N, last width]."""
        return self.linear(rows) + self.mlp(rows)


def _linear(wide: int, narrow: int, rng: torch.Generator) -> Linear:
    linear: Linear = nn.utils.skip_init(Linear, wide, narrow)  # type: ignore[no-untyped-call]
    nn.init.xavier_normal_(linear.weight, generator=rng)
    nn.init.zeros_(linear.bias)
    return linear


def _moments(embeddings_NE: FloatRows) -> tuple[Tensor, Tensor]:
    """Mean [E] and one scale that makes the mean variance of the dimensions 1."""
    total_E, squares = np.zeros(embeddings_NE.shape[1]), 0.0
    for begin in range(0, len(embeddings_NE), CHUNK):
        rows = np.asarray(embeddings_NE[begin : begin + CHUNK], dtype=np.float64)
        total_E += rows.sum(0)
        squares += float((rows * rows).sum())
    mean_E = total_E / len(embeddings_NE)
    variance = squares / len(embeddings_NE) - float(mean_E @ mean_E)
    scale = max(variance / len(mean_E), 1e-12) ** 0.5
    return torch.tensor(mean_E, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
