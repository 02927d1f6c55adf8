"""Pictures that clients send: base64 to RGB, bounded before anything is decoded.

The size in pixels is read from the header and checked first, so that a small file that unpacks to gigabytes (an image
bomb) costs its own length. Only PNG and JPEG are looked at; no other decoder of the library is ever reached.
"""

import base64
import binascii
import io
import warnings

from PIL import Image, ImageOps

from genrec.config import ServeSettings
from serve.errors import ApiError

FORMATS = ("PNG", "JPEG")
LONGEST_SIDE = 1024
"""What models see is smaller; larger pictures are reduced at once."""


def read_picture(encoded: str, limits: ServeSettings) -> Image.Image:
    """The picture, RGB, upright.

    Raises:
        ApiError: 422; it is not base64, too large, or no PNG or JPEG.
    """
    if len(encoded) > 4 * (limits.max_picture_bytes // 3 + 1):
        raise _refused(f"it is larger than {limits.max_picture_bytes} bytes (serve.max_picture_bytes)")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise _refused("it is not base64 of a PNG or JPEG file") from None
    if len(data) > limits.max_picture_bytes:
        raise _refused(f"it is larger than {limits.max_picture_bytes} bytes (serve.max_picture_bytes)")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            warnings.simplefilter("error")  # of a size that Pillow itself finds suspicious
            width, height = picture.size
            if width * height > limits.max_picture_pixels:
                raise _refused(f"{width} x {height} pixels; at most {limits.max_picture_pixels} are taken")
            picture.load()
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            return upright
    # Whatever a malformed file makes the decoder raise is the client's mistake.
    except (OSError, ValueError, SyntaxError, KeyError, OverflowError, EOFError, Warning, Image.DecompressionBombError):
        raise _refused("it is not a PNG or JPEG file that can be read") from None


def _refused(why: str) -> ApiError:
    return ApiError(422, "invalid_request", f"picture: {why}", field="picture")
