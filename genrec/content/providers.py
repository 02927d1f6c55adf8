"""Who makes pictures: the embedded network, or any diffusers pipeline, chosen by ``content.pictures.provider``.

``embedded`` needs nothing. ``local:DIR`` reads a pipeline directory as ``save_pretrained`` writes it,
``hub:OWNER/NAME`` fetches one. No code that comes with a model is ever run (``trust_remote_code`` stays off) and no
pickle is read: weights are safetensors or are refused. Whatever the architecture, it is one
:class:`~genrec.content.contracts.PictureMaker`; arguments that a pipeline's call does not know are left out.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from genrec.config.content import PictureSettings
from genrec.content.contracts import FloatArray, PictureMaker, Progress
from genrec.content.limits import checked_count, checked_prompt, checked_strength
from genrec.errors import DataError, SettingsError

logger = logging.getLogger(__name__)
SETTING = "content.pictures.provider"
INDEX = "model_index.json"
OPTIONAL = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor", "safety_checker")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack")


def load_maker(settings: PictureSettings) -> PictureMaker:
    """The picture maker of the settings.

    Raises:
        SettingsError: it cannot be loaded; names the setting, the path and the mend.
    """
    if settings.provider == "embedded":
        from genrec.content.creator.embedded import EmbeddedMaker

        return EmbeddedMaker(steps=settings.steps, guidance=settings.guidance, size=settings.size)
    return DiffusersMaker(load_pipeline(settings.provider), settings)


def load_pipeline(provider: str) -> Any:
    """The diffusers pipeline of ``local:DIR`` or ``hub:OWNER/NAME``, of whatever class its index names.

    Raises:
        SettingsError: no such directory, no index, an unknown class, pickled weights, code of its own, or no network.
    """
    kind, _, address = provider.partition(":")
    absent = _checked(Path(address)) if kind == "local" else {}
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import HfHubHTTPError

    try:
        pipeline = DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
            address,
            **absent,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=kind == "local",
            dtype=torch.float16 if torch.cuda.is_available() else torch.float32,
        )
    except (OSError, ValueError, AttributeError, ImportError, HfHubHTTPError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(
            f"{SETTING}: {provider} cannot be loaded: {reason}; give a directory that save_pretrained of diffusers "
            "wrote with safetensors and without code of its own"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def _checked(directory: Path) -> dict[str, None]:
    """What can be told without loading: that it is a pipeline, of a class diffusers has, with weights that are safe.

    Returns:
        The parts that such a pipeline may have and this one was saved without (a second text encoder, say).
    """
    if not directory.is_dir():
        raise SettingsError(f"{SETTING}: local:{directory}: no such directory; give a diffusers pipeline's")
    index = directory / INDEX
    if not index.is_file():
        raise SettingsError(f"{SETTING}: local:{directory}: lacks {INDEX}; give the directory that holds it")
    try:
        known = json.loads(index.read_text())
    except ValueError as error:
        raise SettingsError(f"{SETTING}: {index}: not JSON ({error}); save the pipeline again") from error
    import diffusers

    name = known.get("_class_name") if isinstance(known, dict) else None
    if not isinstance(name, str) or not hasattr(diffusers, name):
        raise SettingsError(
            f"{SETTING}: {index}: _class_name {name!r} is no pipeline of diffusers {diffusers.__version__}; code that "
            "comes with a model is never run: use a pipeline that diffusers has, or a newer diffusers"
        )
    for part, value in known.items():
        folder = directory / part
        if part.startswith("_") or not isinstance(value, list) or not folder.is_dir():
            continue
        pickled = [path for pattern in PICKLES for path in folder.glob(pattern)]
        if pickled and not any(folder.glob("*.safetensors")):
            raise SettingsError(
                f"{SETTING}: {pickled[0]}: a pickle, which could run code when read; save the pipeline with "
                "safe_serialization=True"
            )
    parts = inspect.signature(getattr(diffusers, name).__init__).parameters
    optional = [part for part in parts if part.startswith(OPTIONAL)]
    return {part: None for part in optional if (known.get(part) or [None])[0] is None}


class DiffusersMaker:
    """Any text-to-image pipeline of diffusers as a picture maker.

    Args:
        pipeline: loaded.
        settings: steps, guidance, size and LoRA adapters.

    Raises:
        SettingsError: the pipeline makes no pictures from words, or an adapter does not fit it.
    """

    def __init__(self, pipeline: Any, settings: PictureSettings) -> None:
        known = inspect.signature(pipeline.__call__).parameters
        if "prompt" not in known or "num_frames" in known or "audio_length_in_s" in known:
            raise SettingsError(
                f"{SETTING}: {settings.provider}: {type(pipeline).__name__} makes no pictures from words; give a "
                "text-to-image pipeline"
            )
        self._pipeline = pipeline
        self._settings = settings
        self.name = f"{type(pipeline).__name__}:{settings.provider.partition(':')[2]}"
        if settings.adapters:
            load_adapters(pipeline, settings.adapters)

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
        """Pictures of ``prompt``. A pipeline knows no taste: it counts when the best is chosen.

        Raises:
            DataError: an empty or too long prompt, or too many pictures.
        """
        checked_prompt(prompt, negative)
        checked_count(count)
        asked = {"prompt": [prompt] * count, "generator": _generators(seed, count)}
        return self._run(self._pipeline, asked, negative and [negative] * count, progress)

    def restyle(
        self, picture: Image.Image, prompt: str, *, strength: float, seed: int, progress: Progress | None = None
    ) -> Image.Image:
        """``picture`` changed towards ``prompt`` by the pipeline's image-to-image sibling, which shares its weights.

        Raises:
            DataError: strength out of range, or an empty or too long prompt.
            SettingsError: the architecture has no image-to-image pipeline.
        """
        checked_prompt(prompt)
        checked_strength(strength)
        if strength == 0:
            return picture.convert("RGB")
        asked = {
            "prompt": [prompt],
            "image": [self._fitting(picture)],
            # At least one step must remain, or pipelines fail.
            "strength": max(strength, 1.01 / self._settings.steps),
            "generator": _generators(seed, 1),
        }
        return self._run(self._image_to_image, asked, "", progress)[0]

    def inpaint(
        self,
        picture: Image.Image,
        mask: Image.Image,
        prompt: str,
        *,
        strength: float,
        seed: int,
        progress: Progress | None = None,
    ) -> Image.Image:
        """``picture`` made anew where ``mask`` is white.

        Raises:
            DataError: strength out of range, or an empty or too long prompt.
            SettingsError: the architecture has no inpainting pipeline.
        """
        checked_prompt(prompt)
        checked_strength(strength)
        asked = {
            "prompt": [prompt],
            "image": [self._fitting(picture)],
            "mask_image": [self._fitting(mask).convert("L")],
            "strength": max(strength, 1.01 / self._settings.steps),
            "generator": _generators(seed, 1),
        }
        return self._run(self._inpainting, asked, "", progress)[0]

    @cached_property
    def _image_to_image(self) -> Any:
        from diffusers import AutoPipelineForImage2Image

        return self._sibling(AutoPipelineForImage2Image, "image-to-image")

    @cached_property
    def _inpainting(self) -> Any:
        from diffusers import AutoPipelineForInpainting

        return self._sibling(AutoPipelineForInpainting, "inpainting")

    def _sibling(self, auto: Any, what: str) -> Any:
        try:
            pipeline = auto.from_pipe(self._pipeline)
        except ValueError as error:
            raise SettingsError(
                f"{SETTING}: {self._settings.provider}: {type(self._pipeline).__name__} has no {what} pipeline; give "
                "an architecture that has one (Stable Diffusion, SDXL, Flux ...), or use provider embedded"
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _fitting(self, picture: Image.Image) -> Image.Image:
        """Brought to a side that the pipeline's latents divide."""
        factor = 2 * int(getattr(self._pipeline, "vae_scale_factor", 8))
        side = max(factor, self._settings.size // factor * factor)
        return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)

    def _run(
        self, pipeline: Any, asked: dict[str, Any], negative: str | list[str], progress: Progress | None
    ) -> list[Image.Image]:
        settings = self._settings
        known = inspect.signature(pipeline.__call__).parameters
        asked |= {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            "output_type": "pil",
        }
        if negative:
            asked["negative_prompt"] = negative
        if progress is not None:
            asked["callback_on_step_end"] = _told(progress, settings.steps)
        with torch.inference_mode():
            pictures = pipeline(**{name: value for name, value in asked.items() if name in known}).images
        side = (settings.size, settings.size)
        return [p if p.size == side else p.resize(side, Image.Resampling.LANCZOS) for p in pictures]


def load_adapters(pipeline: Any, adapters: Sequence[str]) -> None:
    """Put LoRA adapters on a pipeline: ``DIR`` or ``FILE.safetensors``, each with ``=WEIGHT`` if it is not 1.

    Raises:
        SettingsError: missing, a pickle, or not made for this pipeline.
    """
    setting = "content.pictures.adapters"
    if not hasattr(pipeline, "load_lora_weights"):
        raise SettingsError(f"{setting}: {type(pipeline).__name__} takes no LoRA adapters; leave the setting empty")
    names, weights = [], []
    for place, adapter in enumerate(adapters):
        address, _, weight = adapter.partition("=")
        path = Path(address)
        if path.is_dir():
            files = sorted(path.glob("*.safetensors"))
        else:
            files = [path] if path.suffix == ".safetensors" and path.is_file() else []
        if len(files) != 1:
            raise SettingsError(f"{setting}: {address}: holds {len(files)} safetensors files; give one with one")
        name = f"adapter{place}"
        try:
            pipeline.load_lora_weights(str(files[0].parent), weight_name=files[0].name, adapter_name=name)
            weights.append(float(weight or 1.0))
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            raise SettingsError(f"{setting}: {adapter}: does not fit {type(pipeline).__name__}: {error}") from error
        names.append(name)
    pipeline.set_adapters(names, weights)


def load_video_pipeline(provider: str) -> Any:
    """A text-to-video pipeline (Wan, LTX ...) of ``local:DIR`` or ``hub:OWNER/NAME``.

    Raises:
        SettingsError: it cannot be loaded, or makes no video from words.
    """
    pipeline = load_pipeline(provider)
    known = inspect.signature(pipeline.__call__).parameters
    if "num_frames" not in known or "prompt" not in known:
        raise SettingsError(f"{provider}: {type(pipeline).__name__} makes no video from words; give a video pipeline")
    return pipeline


def make_video(
    pipeline: Any,
    prompt: str,
    *,
    frames: int,
    seed: int,
    steps: int,
    guidance: float = 3.0,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """A video's pictures in order, by a pipeline of :func:`load_video_pipeline`.

    Raises:
        DataError: an empty or too long prompt, or no frames.
    """
    checked_prompt(prompt)
    if frames < 1:
        raise DataError(f"frames: {frames}; make at least 1")
    asked = {
        "prompt": prompt,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "generator": _generators(seed, 1)[0],
        "output_type": "pil",
    }
    if progress is not None:
        asked["callback_on_step_end"] = _told(progress, steps)
    known = inspect.signature(pipeline.__call__).parameters
    with torch.inference_mode():
        return list(pipeline(**{name: value for name, value in asked.items() if name in known}).frames[0])


def _generators(seed: int, count: int) -> list[torch.Generator]:
    # On the CPU, so that a seed makes the same noise on every device.
    return [torch.Generator("cpu").manual_seed(seed + place) for place in range(count)]


def _told(progress: Progress, steps: int) -> Any:
    def tell(pipeline: Any, step: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
        progress(min(1.0, (step + 1) / steps))
        return given

    return tell
