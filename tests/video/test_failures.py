"""Errors of libraries are those of one video: the others of a run, or of a command, are still cut out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import pytest
from clips import frames, write_clip

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.storage.files import Files
from pipeline.video import sound as sound_module
from pipeline.video.cut import cut_video
from pipeline.video.draw import Draw
from pipeline.video.failures import as_item_errors
from pipeline.video.forms import MP4
from pipeline.video.sound import Sound

REFUSED = av.error.ArgumentError(22, "Invalid argument")


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (REFUSED, "FFmpeg refuses this video: Invalid argument"),
        (MemoryError(), r"can't be cut out \(MemoryError\); more memory may help"),
        (cv2.error("insufficient memory"), r"can't be cut out \(error\); more memory may help"),
    ],
    ids=["ffmpeg", "memory", "opencv"],
)
def test_errors_of_libraries_fail_the_video(error: Exception, said: str) -> None:
    with pytest.raises(DecodeError, match=said), as_item_errors():
        raise error


def test_sound_that_ffmpeg_refuses_fails_the_video_and_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, opened = write_clip(tmp_path / "clip.mp4", frames(3, 48, 64), sound=["aac"]), list[Any]()
    real = sound_module.open_container
    monkeypatch.setattr(sound_module, "open_container", lambda *given: opened.append(real(*given)) or opened[-1])
    monkeypatch.setattr(sound_module, "codec_name", raising(REFUSED))
    model = SimpleNamespace(batch=1, recipe=SimpleNamespace(every=1, steady=True))
    arguments: Any = (str(tmp_path / "out.mp4"), MP4, Draw("mask"), lambda: model, Files(), Limits())
    with pytest.raises(DecodeError, match=r"clip\.mp4: FFmpeg refuses this video: Invalid argument"):
        cut_video(str(clip), *arguments)
    (container,) = opened
    assert len(container.streams) == 0, "closed"
    assert [one.name for one in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_demuxer_of_sound_is_closed_if_the_output_takes_no_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, opened = write_clip(tmp_path / "clip.mp4", frames(3, 48, 64), sound=["aac"]).read_bytes(), list[Any]()
    real = sound_module.open_container
    monkeypatch.setattr(sound_module, "open_container", lambda *given: opened.append(real(*given)) or opened[-1])
    output = SimpleNamespace(add_stream_from_template=raising(REFUSED))
    with pytest.raises(av.error.ArgumentError):
        Sound(io.BytesIO(data), output, MP4, Limits())
    assert len(opened[0].streams) == 0
