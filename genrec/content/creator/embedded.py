"""The embedded picture maker: the shipped network, sampled on a CPU in about a second.

Rectified flow is integrated by Euler steps with classifier-free guidance (Ho & Salimans 2022). Words and taste are
guided apart and added (composable diffusion, Liu et al. 2022): each was trained with and without the other, so a
taste can pull a picture without the words being lost. Each picture's noise has its own seed: the same seed makes the
same picture, however many are made beside it.

Shapes: B pictures, G guided branches, P patches, C components, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from genrec.content.contracts import FloatArray, Progress
from genrec.content.creator.latents import to_pictures, to_tensor
from genrec.content.creator.network import Conditions
from genrec.content.creator.train import CONFIG, WEIGHTS, load_weights
from genrec.content.creator.translation import SHIPPED as RESTYLER
from genrec.content.creator.translation import is_drawing, load_style_translator
from genrec.content.creator.upscale import UPSCALER, load_upscaler
from genrec.content.creator.words import WordEncoder, Words, parse, style_index
from genrec.content.limits import checked_count, checked_prompt, checked_strength
from genrec.errors import SettingsError

SHIPPED = Path(__file__).parent.parent / "weights" / "creator"
DEFAULT_STYLE = "flat"


class EmbeddedMaker:
    """A :class:`~genrec.content.contracts.PictureMaker` that needs nothing but the package.

    Args:
        directory: weights; None: the shipped ones.
        restyler: weights of the style translator; None: the shipped ones.
        steps: denoising steps.
        guidance: how strongly the words steer; 1 leaves the network's own answer.
        taste_guidance: how strongly a taste steers.
        size: side of the pictures made.

    Raises:
        SettingsError: the directory lacks weights.
        ArtifactError: the translator's are missing or altered.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        restyler: Path | None = None,
        steps: int = 30,
        guidance: float = 3.0,
        taste_guidance: float = 4.0,
        size: int = 256,
    ) -> None:
        folder = directory or SHIPPED
        for name in (CONFIG, WEIGHTS, UPSCALER):
            if not (folder / name).is_file():
                raise SettingsError(
                    f"content.pictures.provider: embedded needs {folder / name}, which is not there; install genrec "
                    "with its weights, or train them with `python -m genrec content train creator`"
                )
        self._network, self._latents, config = load_weights(folder)
        self._upscaler = load_upscaler(folder / UPSCALER)
        self._words = WordEncoder()
        self._translator = load_style_translator(restyler or RESTYLER)
        self.name = f"genrec-creator-{config['training']['step']}"
        self.steps, self.guidance, self.taste_guidance, self.size = steps, guidance, taste_guidance, size

    def create(
        self,
        prompt: str,
        *,
        count: int,
        seed: int,
        taste: FloatArray | None = None,
        negative: str = "",
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """Pictures of ``prompt``; see :class:`~genrec.content.contracts.PictureMaker`.

        Raises:
            DataError: an empty or too long prompt, or too many pictures.
        """
        checked_prompt(prompt, negative)
        checked_count(count)
        return self._enlarged(self.small([prompt], count, seed, taste=taste, negative=negative, progress=progress))

    def restyle(
        self,
        picture: Image.Image,
        prompt: str,
        *,
        strength: float,
        seed: int,
        taste: FloatArray | None = None,
        progress: Progress | None = None,
    ) -> Image.Image:
        """``picture`` noised to ``strength`` and denoised towards ``prompt`` (SDEdit, Meng et al. 2022).

        Args:
            picture: RGB, any size.
            prompt: what it is to become; a style alone ("flat style") keeps the subject to the taste.
            strength: 0 leaves it, 1 keeps nothing of it.
            seed: the same seed makes the same picture.
            taste: ``[E]``; the source's own vector, say, which tells the network what is to be kept.
            progress: told after every step.

        Raises:
            DataError: strength out of range, or an empty or too long prompt.
        """
        checked_prompt(prompt)
        checked_strength(strength)
        if strength == 0:
            return picture.convert("RGB")
        source = self._latents.encode(to_tensor([picture], self._latents.size))
        made = self.small([prompt], 1, seed, taste=taste, progress=progress, source_BPC=source, begin=strength)
        return self._enlarged(made)[0]

    def translate(self, picture: Image.Image, style: str) -> tuple[Image.Image, str] | None:
        """``picture`` as it would be drawn in ``style``, and the name of the model that drew it.

        Args:
            picture: RGB, any size.
            style: one of the corpus's.

        Returns:
            None if the picture is not of the kind that was learnt from: one thing on white.
        """
        if not is_drawing(picture):
            return None
        made = self._translator.small(picture, style)
        return self._enlarged(made)[0], f"genrec-restyler-{self._translator.version}"

    @torch.inference_mode()
    def small(
        self,
        prompts: Sequence[str],
        count: int,
        seed: int,
        *,
        taste: FloatArray | None = None,
        negative: str = "",
        progress: Progress | None = None,
        source_BPC: Tensor | None = None,
        begin: float = 1.0,
    ) -> Tensor:
        """``[len(prompts) * count, 3, 32, 32]`` before super-resolution, the pictures of a prompt in a row."""
        wishes = [parse(prompt) for prompt in prompts]
        words = self._words([wish.subject for wish in wishes for _ in range(count)])
        total = len(prompts) * count
        styles = [style_index(wish.style or DEFAULT_STYLE) for wish in wishes for _ in range(count)]
        empty = torch.tensor([not wish.subject for wish in wishes for _ in range(count)])
        branches, scales = self._branches(words, torch.tensor(styles), empty, taste, negative)
        noise = torch.stack([self._noise(seed + place) for place in range(total)])
        x_BPC = noise if source_BPC is None else (1 - begin) * source_BPC + begin * noise
        count_steps = max(1, round(self.steps * begin))
        times = torch.linspace(begin, 0.0, count_steps + 1)
        for step in range(count_steps):
            time_B = times[step].expand(total * len(scales))
            velocity = self._network(x_BPC.repeat(len(scales), 1, 1), time_B, branches).unflatten(0, (len(scales), -1))
            guided = velocity[0] + sum(
                scale * (branch - velocity[0]) for scale, branch in zip(scales[1:], velocity[1:], strict=True)
            )
            x_BPC = x_BPC + (times[step + 1] - times[step]) * guided
            if progress is not None:
                progress((step + 1) / count_steps)
        return self._latents.decode(x_BPC)

    def _branches(
        self, words: Words, style_B: Tensor, empty_B: Tensor, taste: FloatArray | None, negative: str
    ) -> tuple[Conditions, list[float]]:
        """Conditions of all branches in a row, the unguided one first, and how strongly each steers."""
        count = len(style_B)
        words_BTE, mask_BT, pooled_BE = words.states_BTE, words.mask_BT, words.pooled_BE * ~empty_B[:, None]
        mask_BT = mask_BT & ~empty_B[:, None]
        against = self._words([negative] * count) if negative else None
        none_states, none_mask, none_pooled = (
            (torch.zeros_like(words_BTE), torch.zeros_like(mask_BT), torch.zeros_like(pooled_BE))
            if against is None
            else (against.states_BTE, against.mask_BT, against.pooled_BE)
        )
        no_taste = torch.zeros_like(pooled_BE)
        parts = [
            (none_states, none_mask, none_pooled, no_taste),
            (words_BTE, mask_BT, pooled_BE, no_taste),
        ]
        scales = [0.0, self.guidance]
        if taste is not None:
            taste_E = nn.functional.normalize(torch.from_numpy(np.asarray(taste, np.float32)).reshape(-1), dim=0)
            if len(taste_E) != pooled_BE.shape[1]:
                raise SettingsError(f"taste: {len(taste_E)} values; the creator's space has {pooled_BE.shape[1]}")
            # Not in the words' place too: a user's vector is no sentence's, and the picture falls apart.
            nothing = (torch.zeros_like(words_BTE), torch.zeros_like(mask_BT), no_taste)
            parts.append((*nothing, taste_E.expand(count, -1)))
            scales.append(self.taste_guidance)
        states, masks, vectors, tastes = (torch.cat(column) for column in zip(*parts, strict=True))
        return Conditions(states, masks, vectors, tastes, style_B.repeat(len(scales))), scales

    def _noise(self, seed: int) -> Tensor:
        shape = self._network.shape
        return torch.randn(shape.patches, shape.components, generator=torch.Generator().manual_seed(seed))

    @torch.inference_mode()
    def _enlarged(self, small_B3HW: Tensor) -> list[Image.Image]:
        large = to_pictures(torch.cat([self._upscaler(small[None].clamp(-1.1, 1.1)) for small in small_B3HW]))
        side = (self.size, self.size)
        return [p if p.size == side else p.resize(side, Image.Resampling.LANCZOS) for p in large]
