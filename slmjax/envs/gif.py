"""Frames to a GIF file."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_SAMPLE = 16  # frames whose colours make the palette


def write_gif(frames: Sequence[np.ndarray], path: str | os.PathLike[str], fps: float = 30) -> None:
    """Writes uint8 images `[height, width, 3]` of one size as an endless GIF; readers never see half a file.

    All frames share one palette, so a colour does not flicker. GIF counts time in hundredths of a second: 30 frames
    per second become 33.3, and nothing is faster than 50, which many viewers slow down.

    Raises:
        ValueError: no frames, frames of different sizes, or frames that are no uint8 RGB images.
    """
    if not len(frames):
        raise ValueError("a GIF needs at least one frame")
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.shape != frames[0].shape:
            raise ValueError(f"frames must be uint8 [height, width, 3] of one size, got {frame.dtype}{frame.shape}")
    chosen = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, _SAMPLE).astype(int))]
    palette = Image.fromarray(np.concatenate(chosen)).quantize(255)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = max(20, round(100 / fps) * 10)

    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".gif")
    os.close(handle)
    try:
        images[0].save(temporary, save_all=True, append_images=images[1:], duration=duration, loop=0)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
