"""Videos: read within limits, told apart into shots, cut to what a user likes best, and written as H.264 MP4."""

from genrec.content.video.clips import Window, best_window, choose_clip
from genrec.content.video.reading import Samples, VideoLimits, frames_between, sample_frames
from genrec.content.video.shots import shot_bounds
from genrec.content.video.storyboard import Scene, storyboard
from genrec.content.video.thumbnails import choose_thumbnail, presentable
from genrec.content.video.writing import write_mp4

__all__ = [
    "Samples",
    "Scene",
    "VideoLimits",
    "Window",
    "best_window",
    "choose_clip",
    "choose_thumbnail",
    "frames_between",
    "presentable",
    "sample_frames",
    "shot_bounds",
    "storyboard",
    "write_mp4",
]
