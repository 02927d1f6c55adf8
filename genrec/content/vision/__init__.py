"""Seeing: pictures read safely, and put into one space with words."""

from genrec.content.vision.encoder import TowerEncoder, load_encoder
from genrec.content.vision.reading import PictureLimits, load_picture, picture_bytes

__all__ = ["PictureLimits", "TowerEncoder", "load_encoder", "load_picture", "picture_bytes"]
