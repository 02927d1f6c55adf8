"""``python -m genrec content train restyler``: the style translator, from pairs of drawings of one concept.

Two artists never draw a thing in quite the same place, so pixels alone would teach blur. The loss bears that: blurred
and shrunk copies count as much as pixels, edges count by themselves, and what a picture tower sees counts most: its
maps (unit-length feature columns as in LPIPS, Zhang et al. 2018), its vector and its style head. The tower is a
witness that never saw the concept (:mod:`genrec.content.creator.witnesses`); neither the shipped encoder nor the judge
has a part in it.

Shape letters: B batch, H = W = 64 pixels.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.content.corpus.build import ATTRIBUTION, attribution
from genrec.content.creator.pairs import Pairs, batches, kept_apart, read_pairs
from genrec.content.creator.translation import (
    CONFIG,
    WEIGHTS,
    Translator,
    TranslatorShape,
    load_translator,
    save_translator,
)
from genrec.content.creator.upscale import edges_of
from genrec.content.creator.witnesses import witnesses
from genrec.content.vision import load_encoder
from genrec.content.vision.tower import ImageTower, map_distance

logger = logging.getLogger(__name__)
BLURS = (1, 2, 4, 8)
WITNESSES = "witnesses"


@dataclass(frozen=True)
class RestylerTraining:
    """The recipe.

    Attributes:
        shape: of the network.
        steps: of training; None: as many as ``minutes`` allow.
        minutes: of this process's own work, pauses not counted; the learning rate follows whichever budget is nearer
            its end.
        batch: pairs a step.
        rate: highest learning rate.
        average: decay of the running mean of the weights, which is what is written.
        pixels, edges, maps, meaning, style: weights of the parts of the loss.
        witness_steps: of the training of each witness, before anything else; no part of the budget.
        seed: of weights and order.
        save_every: seconds of work between two looks at the validation pairs, each with the weights written.
    """

    shape: TranslatorShape = field(default_factory=TranslatorShape)
    steps: int | None = None
    minutes: float | None = 12.0
    batch: int = 24
    rate: float = 2e-3
    average: float = 0.995
    pixels: float = 1.0
    edges: float = 0.5
    maps: float = 1.0
    meaning: float = 2.0
    style: float = 0.05
    witness_steps: int = 400
    seed: int = 0
    save_every: float = 60.0


def train_restyler(
    corpus: Path, out: Path, recipe: RestylerTraining, *, progress: Callable[[float, dict[str, float]], None]
) -> dict[str, float]:
    """Train, and write weights, config.json and ATTRIBUTION.md to ``out``; goes on from weights and witnesses there.

    Args:
        corpus: directory of the corpus.
        out: directory.
        recipe: how.
        progress: told the share that is done and the latest figures.

    Returns:
        Figures on the validation pairs (see :func:`figures`), steps and CPU seconds, those of earlier runs counted in.
    """
    used = time.process_time()
    torch.manual_seed(recipe.seed)
    pairs, encoder = read_pairs(corpus), load_encoder().tower.requires_grad_(False)
    towers = witnesses(corpus, out / WITNESSES, recipe.witness_steps, left_out=kept_apart)
    network, behind, spent = _begun(out, recipe)
    used -= spent
    running = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
    averaged = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=running)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01)
    places = np.random.default_rng([recipe.seed, behind, 1])
    begin = saved = time.process_time()
    step, done, found, losses = 0, 0.0, {}, []
    for fold, source, target, style in batches(pairs, recipe.batch, seed=recipe.seed, behind=behind):
        done = _done(step, time.process_time() - begin, recipe)
        if done >= 1:
            break
        optimizer.param_groups[0]["lr"] = recipe.rate * min(1.0, (step + 1) / 50, 2 * (1 - done))
        with torch.autocast("cpu", torch.bfloat16, enabled=_halves()):
            # Towers read patches of 4 x 4 pixels; moved, they can be deceived by no texture that fits the patches.
            down, right = (int(pixels) for pixels in places.integers(-2, 3, 2))
            loss = loss_of(network(source, style), target, style, towers[fold], recipe, (down, right))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        averaged.update_parameters(network)
        losses.append(float(loss.detach()))
        step += 1
        if time.process_time() - saved > recipe.save_every:
            found = _written(out, averaged.module, pairs, encoder, behind + step, used)
            saved = time.process_time()
        progress(done, found | {"step": float(step), "loss": float(np.mean(losses[-50:]))})
    return _written(out, averaged.module, pairs, encoder, behind + step, used)


def _begun(out: Path, recipe: RestylerTraining) -> tuple[Translator, int, float]:
    """The network in ``out`` with the steps and CPU seconds behind it, or a new one."""
    if not (out / WEIGHTS).is_file():
        return Translator(recipe.shape), 0, 0.0
    network, about = load_translator(out), json.loads((out / CONFIG).read_bytes())["training"]
    return network.train().requires_grad_(True), int(about["steps"]), float(about["cpu_seconds"])


def _done(step: int, seconds: float, recipe: RestylerTraining) -> float:
    shares = [step / recipe.steps] if recipe.steps else []
    if recipe.minutes:
        shares.append(seconds / (60 * recipe.minutes))
    assert shares, "a budget"
    return max(shares)


def loss_of(
    made_B3HW: Tensor,
    target_B3HW: Tensor,
    style_B: Tensor,
    tower: ImageTower,
    recipe: RestylerTraining,
    moved: tuple[int, int] = (0, 0),
) -> Tensor:
    """The weighted sum; see the module. The tower sees both pictures ``moved`` by so many pixels, down and right."""
    made_B3HW = made_B3HW.float()
    apart = made_B3HW - target_B3HW
    pixels = torch.stack([functional.avg_pool2d(apart, blur).abs().mean() for blur in BLURS]).mean()
    half = functional.avg_pool2d(apart, 2)
    edges = (edges_of(apart) + edges_of(half)) / 4
    down, right = moved
    edge = (right, -right, down, -down)
    ours, mine, looks = seen(tower, functional.pad(made_B3HW, edge, value=1.0))
    with torch.no_grad():
        theirs, wanted, _ = seen(tower, functional.pad(target_B3HW, edge, value=1.0))
    maps = map_distance(ours, theirs).mean()
    meaning = 1 - (mine * wanted).sum(dim=1).mean()
    style = functional.cross_entropy(looks, style_B)
    like = recipe.pixels * pixels + recipe.edges * edges + recipe.maps * maps
    return like + recipe.meaning * meaning + recipe.style * style


def seen(tower: ImageTower, pictures_B3HW: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """The tower's maps after each of its layers, its unit vectors and its style logits."""
    maps = tower.maps(pictures_B3HW)
    return [grid_BCHW.float() for grid_BCHW in maps], *tower.told(tower.pooled(maps[-1]))


@torch.inference_mode()
def figures(network: Translator, pairs: Pairs, tower: ImageTower, most: int = 300) -> dict[str, float]:
    """On validation pairs, of the edit and of the source as it is: how near it comes to the true drawing.

    The distance of a tower's maps and that of pixels, its cosine, and the probability that it gives the wanted style.
    """
    rows = pairs.kept_P2[:: max(1, len(pairs.kept_P2) // most)] if len(pairs.kept_P2) else pairs.learnt_P2[:most]
    totals: dict[str, list[Tensor]] = {}
    network.eval()
    for begin in range(0, len(rows), 64):
        part = rows[begin : begin + 64]
        source, target = (pairs.pixels_N3HW[part[:, side]].float() / 127.5 - 1 for side in (0, 1))
        theirs, wanted, _ = seen(tower, target)
        for name, shown in (("source", source), ("edit", network(source, pairs.style_N[part[:, 1]]).clamp(-1, 1))):
            ours, mine, looks = seen(tower, shown)
            blurred = functional.avg_pool2d(shown - target, 2).abs().mean(dim=(1, 2, 3))
            shares_B = looks.softmax(dim=1)[torch.arange(len(part)), pairs.style_N[part[:, 1]]]
            measured = (map_distance(ours, theirs), blurred, (mine * wanted).sum(dim=1), shares_B)
            for what, values in zip(("maps", "pixels", "cosine", "style"), measured, strict=True):
                totals.setdefault(f"{what}_{name}", []).append(values)
    network.train()
    return {name: round(float(torch.cat(values).mean()), 4) for name, values in totals.items()}


def _written(
    out: Path, network: nn.Module, pairs: Pairs, encoder: ImageTower, step: int, used: float
) -> dict[str, float]:
    assert isinstance(network, Translator), "what was averaged"
    found = figures(network, pairs, encoder) | {"steps": step, "cpu_seconds": round(time.process_time() - used)}
    logger.info("%s", found)
    save_translator(out, network, {"pairs": len(pairs.learnt_P2), **found})
    (out / ATTRIBUTION).write_text(attribution())
    return found


def _halves() -> bool:
    """Whether this processor multiplies bfloat16 by itself."""
    return bool(torch.cpu._is_avx512_bf16_supported())
