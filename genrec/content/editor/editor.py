"""The editor: makes something new of an item that there is, and says of what.

Every draft names its source item and, by content hash, each file it was made from. An item without a picture (or
video) cannot be edited, and the editor says so: it never invents a source.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from genrec import __version__
from genrec.config.content import EditorSettings
from genrec.content.contracts import (
    Decision,
    Draft,
    FloatArray,
    ImageTextEncoder,
    Medium,
    PictureMaker,
    Progress,
    Slots,
)
from genrec.content.creator.words import parse
from genrec.content.digests import bytes_digest
from genrec.content.editor.cards import CardWriter, draw_card
from genrec.content.editor.media import ItemMedia
from genrec.content.editor.operators import asked_colour, asked_operators, recolour
from genrec.content.editor.restyling import Restyler
from genrec.content.video import (
    Scene,
    choose_clip,
    choose_thumbnail,
    frames_between,
    presentable,
    sample_frames,
    storyboard,
    write_mp4,
)
from genrec.content.video.thumbnails import cosines
from genrec.content.vision.reading import load_picture, picture_bytes
from genrec.errors import DataError

MODEL = f"genrec-editor {__version__}"


class Editor:
    """Thumbnails, clips, edited pictures and cards of catalog items.

    Args:
        encoder: pictures and words in one space.
        media: where items' files come from.
        settings: section ``content.editor``.
        maker: an image-to-image model; without one only edits that need none are made.
    """

    def __init__(
        self,
        encoder: ImageTextEncoder,
        media: ItemMedia,
        settings: EditorSettings | None = None,
        maker: PictureMaker | None = None,
    ) -> None:
        self.encoder, self.media, self.maker = encoder, media, maker
        self.settings = settings or EditorSettings()
        self.writer = CardWriter(self.settings)

    def apply(
        self,
        decision: Decision,
        text: str,
        *,
        taste: FloatArray | None = None,
        picture: Image.Image | None = None,
        reasons: Sequence[str] = (),
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Draft:
        """What a decision to edit asks for.

        Args:
            decision: of the instructor, with ``action`` edit.
            text: the user's words.
            taste: ``[dimension]``, the user's preference vector.
            picture: the user's own picture, edited where no item is named.
            reasons: of a card.
            seed: of the model.
            progress: told the share that is done.

        Raises:
            DataError: no source, no picture or video, no taste where one is needed, or no edit keeps the source.
        """
        slots = decision.slots
        item = slots.source_item
        if item is None and picture is None:
            raise DataError("edit: no item is named and no picture given; say which item of the list to edit")
        if item is not None and (slots.medium == "card" or slots.operation == "rewrite"):
            return self.card(item, reasons)
        if item is not None and slots.medium == "video" and self.media.video(item) is not None:
            return self.clip(item, taste)
        if slots.medium == "video" or slots.operation == "animate":
            return self.animate(item, picture=picture)
        return self.edit(item, text, slots=slots, picture=picture, seed=seed, progress=progress)

    def thumbnail(self, item: int, taste: FloatArray | None = None) -> Draft:
        """The frame of the item's video that suits the user best (without a taste: the most typical); else its picture.

        Raises:
            DataError: the item has neither.
        """
        video = self.media.video(item)
        if video is None:
            picture, source = self._picture(item, None)
            return self._draft(item, "image", (picture,), "thumbnail: its only picture", source)
        samples = sample_frames(video, side=self.settings.side, name=self._name(item))
        vectors_FD = self.encoder.images(samples.frames)
        wish = vectors_FD.mean(axis=0) if taste is None else taste
        (best,) = choose_thumbnail(vectors_FD, wish, allowed_F=presentable(samples.frames))
        details: dict[str, str | float] = {
            "second": float(samples.times_F[best]),
            "cosine": float(cosines(vectors_FD, wish)[best]),
            "frames": float(len(samples.frames)),
        }
        return self._draft(item, "image", (samples.frames[best],), "thumbnail", bytes_digest(video), details=details)

    def clip(self, item: int, taste: FloatArray | None = None, *, seconds: tuple[float, float] | None = None) -> Draft:
        """The part of the item's video that suits the user best (without a taste: the most typical), MP4, no sound.

        Raises:
            DataError: the item has no video.
        """
        video = self.media.video(item)
        if video is None:
            raise DataError(f"{self._name(item)} has no video to cut; ask for a picture, or for an animation of it")
        samples = sample_frames(video, side=self.settings.side, name=self._name(item))
        vectors_FD = self.encoder.images(samples.frames)
        wish = vectors_FD.mean(axis=0) if taste is None else taste
        begin, end, score = choose_clip(samples, vectors_FD, wish, seconds=seconds or self.settings.clip_seconds)
        cut = write_mp4(
            frames_between(video, begin, end, side=self.settings.video_side), rate=samples.rate, name=self._name(item)
        )
        shown = tuple(frame for frame, time in zip(samples.frames, samples.times_F, strict=True) if begin <= time < end)
        details: dict[str, str | float] = {"begin": begin, "end": end, "cosine": score}
        source = bytes_digest(video)
        return self._draft(item, "video", shown, "clip", source, details=details, video=cut)

    def animate(self, item: int | None, *, picture: Image.Image | None = None, caption: str | None = None) -> Draft:
        """A slow zoom into the item's picture with its title below, as MP4.

        Raises:
            DataError: there is no picture.
        """
        still, source = self._picture(item, picture)
        words = caption if caption is not None else self._title(item)
        size = (self.settings.video_side, self.settings.video_side)
        moving = storyboard([Scene(still, words, seconds=3.0)], size=size)
        # What is checked is what is shown, caption and all.
        shown = sample_frames(moving, per_second=1, side=self.settings.side, name=self._name(item)).frames
        return self._draft(item, "video", shown, "animation", source, video=moving)

    def edit(
        self,
        item: int | None,
        text: str,
        *,
        slots: Slots | None = None,
        picture: Image.Image | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Draft:
        """The item's picture (or ``picture``), changed as ``text`` says.

        What words ask for exactly (crop, grey, brighter, a colour) is done on the pixels; all else by the model, held
        to the source.

        Raises:
            DataError: no picture, no model where one is needed, or no edit keeps the source.
        """
        still, source = self._picture(item, picture)
        slots = slots or Slots()
        title = self._title(item)
        about = f"{title} {slots.target or ''}"
        operators = asked_operators(text, about=about)
        if operators:
            edited = still
            for operator in operators:
                edited = operator.act(edited)
            names = ", ".join(operator.name for operator in operators)
            return self._edited(item, still, edited, names, source, MODEL, 0, {"operators": names})
        colour = asked_colour(text, about=about)
        if colour is not None:
            edited = recolour(still, colour)
            return self._edited(item, still, edited, colour, source, MODEL, 0, {"operators": f"recolour {colour}"})
        if self.maker is None:
            raise DataError(
                f"edit {text!r}: that needs a model; set content.pictures.provider, or ask for crop, grey, brighter, "
                "mirror or another colour"
            )
        style = style_named(slots.style or text)
        subject = slots.target or title or text
        prompt = f"{subject}, {style} style" if style else text
        restyler = Restyler(self.maker, self.encoder, strengths=self.settings.strengths, floor=self.settings.floor)
        alone = slots.operation == "restyle" or (slots.operation is None and not slots.target)
        chosen = restyler.restyle(still, prompt, style=style, style_alone=alone, seed=seed, progress=progress)
        details: dict[str, str | float] = {"strength": chosen.strength, "match": chosen.match}
        label = f"{style} style" if style else text
        return self._edited(
            item, still, chosen.picture, label, source, chosen.model or self.maker.name, seed, details, prompt=prompt
        )

    def card(self, item: int, reasons: Sequence[str] = ()) -> Draft:
        """A card of the item: title, reasons, and its picture where it has one."""
        title = self._title(item)
        words = self.writer.write(title, reasons)
        data = self.media.picture(item)
        picture = None if data is None else load_picture(data, name=self._name(item))
        details: dict[str, str | float] = {"text": words.text, "writer": words.writer}
        model = MODEL if words.writer == "template" else words.writer
        return Draft(
            "edit", "card", title, (draw_card(picture, words.text),), words.text, model, 0, item,
            () if data is None else (bytes_digest(data),), None, details,
        )  # fmt: skip

    def _edited(
        self,
        item: int | None,
        source: Image.Image,
        edited: Image.Image,
        label: str,
        ingredient: str,
        model: str,
        seed: int,
        details: dict[str, str | float],
        *,
        prompt: str | None = None,
    ) -> Draft:
        before, after = self.encoder.images([source, edited])
        details = {**details, "likeness": float(np.dot(before, after))}
        title = self._title(item)
        name = f"{title} ({label})" if title else label
        return Draft("edit", "image", name, (edited,), prompt or label, model, seed, item, (ingredient,), None, details)

    def _draft(
        self,
        item: int | None,
        medium: str,
        frames: tuple[Image.Image, ...],
        prompt: str,
        ingredient: str,
        *,
        details: dict[str, str | float] | None = None,
        video: bytes | None = None,
    ) -> Draft:
        kind: Medium = "video" if medium == "video" else "image"
        return Draft(
            "edit", kind, self._title(item), frames, prompt, MODEL, 0, item, (ingredient,), video, details or {}
        )  # fmt: skip

    def _picture(self, item: int | None, given: Image.Image | None) -> tuple[Image.Image, str]:
        """The source and its content hash."""
        if item is None:
            if given is None:
                raise DataError("edit: no item is named and no picture given; say which item of the list to edit")
            return given.convert("RGB"), bytes_digest(picture_bytes(given))
        data = self.media.picture(item)
        if data is None:
            raise DataError(
                f"{self._name(item)} has no picture to edit; choose an item that has one, or ask for something new"
            )
        return load_picture(data, name=self._name(item)), bytes_digest(data)

    def _title(self, item: int | None) -> str:
        return "" if item is None else self.media.title(item)

    def _name(self, item: int | None) -> str:
        return "picture" if item is None else f"item {item} ({self._title(item)!r})"


def style_named(text: str) -> str | None:
    """The drawing style of the corpus that ``text`` (a phrase, or a style's name) names; none if it names none."""
    return parse(text).style or parse(f"thing in {text} style").style
