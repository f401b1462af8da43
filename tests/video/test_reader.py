"""Reading: containers, colours, animations, interlaced and 10-bit video; every bad input in one sentence."""

from __future__ import annotations

import gc
import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import frames, write_clip
from PIL import Image

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.video.container import decoded, open_container
from pipeline.video.reader import Frame, VideoReader
from pipeline.video.stretches import frame_times

SMALL = frames(6, 48, 64)


def read(data: bytes | Path, **limits: Any) -> tuple[VideoReader, list[Frame]]:
    file = io.BytesIO(data if isinstance(data, bytes) else data.read_bytes())
    with VideoReader(file, Limits(**limits)) as reader:
        return reader, list(reader)


def times_ms(reader: VideoReader, found: list[Frame]) -> list[int]:
    return [round(float(one.pts * reader.facts.time_base) * 1000) for one in found]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", SMALL, sound=["aac"])


def cover_first(path: Path) -> bytes:
    """The bytes of an MP4 whose metadata, with a cover, comes before its video: FFmpeg then makes the cover stream 0."""
    data = path.read_bytes()
    start = data.index(b"moov") - 4
    moov = data[start : start + int.from_bytes(data[start : start + 4])]
    metadata = moov[moov.rindex(b"udta") - 4 :]
    return data.replace(moov, moov[:8] + metadata + moov[8 : -len(metadata)])


@pytest.mark.parametrize(
    "how",
    [
        {"container": "mov"},
        {"container": "matroska"},
        {"container": "webm", "encoder": "libvpx-vp9", "pixel_format": "yuv420p", "options": {"lossless": "1"}},
        {"container": "mov", "encoder": "prores_ks", "pixel_format": "yuv422p10le"},
        {"pixel_format": "yuv444p10le"},
        {"pixel_format": "yuv444p", "colour": {"colorspace": 5, "color_range": 1}},
        {"pixel_format": "yuv444p", "colour": {"color_range": 2}},
    ],
    ids=["mov", "mkv", "webm", "prores 10 bit", "h264 10 bit", "bt601", "full range"],
)
def test_frames_have_the_colours_that_were_written(tmp_path: Path, how: dict[str, Any]) -> None:
    reader, found = read(write_clip(tmp_path / "clip", SMALL, **how))
    assert times_ms(reader, found) == [0, 40, 80, 120, 160, 200]
    for one, wanted in zip(found, SMALL, strict=True):
        difference = one.pixels.astype(int) - wanted
        assert np.abs(difference).mean() < 4 and np.abs(difference.mean((0, 1))).max() < 1.5


@pytest.mark.parametrize("matrix", [1, 5, 6, 9, 10])
@pytest.mark.parametrize("size", [(720, 1280), (48, 64)], ids=["hd", "sd"])
def test_the_matrix_is_the_one_that_the_video_names(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    """Players take BT.601 for small videos and BT.709 for large ones, unless these say what they have."""
    picture = np.full((*size, 3), (30, 190, 60), np.uint8)
    picture[:, : size[1] // 2] = (200, 40, 30)
    options = {"preset": "ultrafast", "crf": "8"}
    path = write_clip(tmp_path / "clip.mp4", [picture], options=options, colour={"colorspace": matrix})
    pixels = read(path)[1][0].pixels.astype(int)
    assert np.abs(pixels - picture).mean() < 3


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    alpha = np.zeros((48, 64, 1), np.uint8)
    alpha[:, :32] = 255
    clear = [np.dstack([one, alpha]) for one in SMALL]
    for how in (
        {"container": "webm", "encoder": "libvpx-vp9", "pixel_format": "yuva420p", "options": {"auto-alt-ref": "0"}},
        {"container": "mov", "encoder": "prores_ks", "pixel_format": "yuva444p10le", "options": {"profile": "4444"}},
    ):
        pixels = read(write_clip(tmp_path / "clear", clear, **how))[1][2].pixels
        assert pixels[:, 40:].min() > 250 and np.abs(pixels[:, :24].astype(int) - SMALL[2][:, :24]).mean() < 5


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_animations_have_their_delays(form: str) -> None:
    pictures, sink = [Image.fromarray(one) for one in SMALL], io.BytesIO()
    options = {"lossless": True} if form == "WEBP" else {}
    pictures[0].save(sink, form, save_all=True, append_images=pictures[1:], duration=[40, 80, 40, 120, 40, 0], **options)
    reader, found = read(sink.getvalue())
    assert times_ms(reader, found) == [0, 40, 120, 160, 280, 320]
    assert found[-1].duration == 100, "as browsers do"
    assert np.abs(found[3].pixels.astype(int) - SMALL[3]).mean() < (6 if form == "GIF" else 1)


def test_interlaced_frames_are_deinterlaced(tmp_path: Path) -> None:
    """Each frame holds two moments, in odd and even rows; woven together they would be a comb."""
    early, late = frames(12, 96, 128)[::2], frames(12, 96, 128)[1::2]
    woven = [np.where(np.arange(96)[:, None, None] % 2 == 0, a, b) for a, b in zip(early, late, strict=True)]
    options = {"flags": "+ildct+ilme", "field_order": "tt", "crf": "10"}
    reader, found = read(write_clip(tmp_path / "clip.mp4", woven, pixel_format="yuv420p", options=options, interlaced=True))
    assert times_ms(reader, found) == [0, 40, 80, 120, 160, 200]

    def comb(pixels: np.ndarray) -> float:
        rows = pixels[..., 0].astype(int)
        return float(np.abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean())

    assert comb(found[3].pixels) < 0.6 * comb(woven[3])


@pytest.mark.parametrize(("curve", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(tmp_path: Path, curve: int, name: str) -> None:
    with pytest.raises(DecodeError, match=f"HDR \\({name}\\).*convert it to SDR"):
        read(write_clip(tmp_path / "clip.mp4", SMALL, colour={"color_trc": curve}))


def test_wide_gamut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"BT\.2020"):
        read(write_clip(tmp_path / "clip.mp4", SMALL, colour={"color_primaries": 9}))


def picture_of(form: str) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(SMALL[0]).save(sink, form)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a video: the bytes are empty"),
        (b"hello " * 999, "not a video: the bytes are plain text"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "not a video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video"),
        (picture_of("JPEG"), r"a picture \(JPEG\), not a video"),
        (picture_of("PNG"), r"a picture \(PNG\), not a video"),
    ],
    ids=["empty", "text", "playlist", "concat", "jpeg", "png"],
)
def test_what_is_no_video_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        read(data)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        track = output.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        output.mux([*track.encode(frame), *track.encode(None)])
    with pytest.raises(DecodeError, match="only sound; give a file with a video stream"):
        read(path)


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.start_encoding()
    with pytest.raises(DecodeError, match="no video stream"):
        read(path)


@pytest.mark.parametrize("container", ["mp4", "matroska", "faststart"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, container: str) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, frames(60, 96, 128), container="matroska" if container == "matroska" else "mp4", sound=["aac"])
    if container == "faststart":  # the index first, as browsers want it
        fast = tmp_path / "fast.mp4"
        with av.open(str(path)) as source, av.open(str(fast), "w", options={"movflags": "+faststart"}) as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    output.mux(packet)
        path = fast
    data = path.read_bytes()
    assert len(read(data)[1]) == 60
    with pytest.raises(DecodeError, match="cut off|damaged"):
        read(data[: len(data) // 2])


def test_a_wrong_count_in_the_header_is_ignored(clip: Path) -> None:
    """mdhd and tkhd keep their durations; stts says 5000 frames instead of 6."""
    data = clip.read_bytes()
    at = data.index(b"stts")
    entries = struct.unpack(">I", data[at + 8 : at + 12])[0]
    assert entries == 1 and struct.unpack(">I", data[at + 12 : at + 16])[0] == 6
    wrong = data[: at + 12] + struct.pack(">I", 5000) + data[at + 16 :]
    reader, found = read(wrong)
    assert len(found) == 6 and reader.facts.frames >= 6


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_pixels": 3000}, r"64 x 48 pixels; limits\.max_pixels allows 3,000"),
        ({"max_frames": 5}, r"more than 5 frames \(limits\.max_frames\)"),
        ({"max_seconds": 0.15}, r"longer than 0\.15 s \(limits\.max_seconds\)"),
    ],
)
def test_limits(clip: Path, limits: dict[str, float], words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        read(clip, **limits)


def joined(path: Path, *heights: int) -> Path:
    """A VP9 stream that changes its size at a keyframe, as recordings of calls do: two frames of each height."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, heights[0], "yuv420p"
        other = av.CodecContext.create("libvpx-vp9", "w")
        other.width, other.height, other.pix_fmt = 64, heights[1], "yuv420p"  # type: ignore[attr-defined]
        other.time_base = stream.codec_context.time_base = Fraction(1, 25)
        for number, height in enumerate((heights[0], heights[0], heights[1], heights[1])):
            frame = av.VideoFrame.from_ndarray(frames(1, height, 64)[0]).reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in (stream if number < 2 else other).encode(frame):  # type: ignore[attr-defined]
                packet.stream = stream
                output.mux(packet)
            if number == 1:
                output.mux(stream.encode(None))
        for packet in other.encode(None):  # type: ignore[attr-defined]
            packet.stream = stream
            output.mux(packet)
    return path


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="frame 3 has another size than the first one"):
        read(joined(tmp_path / "joined.webm", 48, 80))


def test_frames_far_above_the_limit_are_not_decoded(tmp_path: Path) -> None:
    """What a header says of the size may be wrong, and a decoder allocates what its stream says."""
    path, limits = joined(tmp_path / "joined.webm", 48, 4800), Limits(max_pixels=10_000)
    seen = []
    with path.open("rb") as file, open_container(file, limits) as container, pytest.raises(av.error.FFmpegError):
        for frame in decoded(container, container.streams.video[0]):
            seen.append(frame.height)
    assert seen == [48, 48]
    with pytest.raises(DecodeError, match="this video is damaged at about"):
        read(path, max_pixels=limits.max_pixels)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_give_frames_or_a_sentence(clip: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(clip.read_bytes())
    for at in rng.integers(0, len(data), 1 + seed % 8):
        data[at] = int(rng.integers(256))
    try:
        read(bytes(data), max_frames=1000, max_pixels=1_000_000)
    except DecodeError as error:
        assert len(str(error)) < 300 and "\n" not in str(error)


def test_a_cover_before_the_video_is_passed_over(tmp_path: Path) -> None:
    sink = io.BytesIO()
    Image.fromarray(SMALL[0][:24, :32]).save(sink, "PNG")
    path = write_clip(tmp_path / "clip.mp4", SMALL, cover=sink.getvalue())
    with av.open(io.BytesIO(data := cover_first(path))) as container:
        assert [one.codec_context.name for one in container.streams.video] == ["png", "h264"]
        video = container.streams.video[1]
        wanted = ("h264", video.time_base, video.average_rate, len(SMALL))
    reader, found = read(data)
    assert (reader.facts.codec, reader.facts.time_base, reader.facts.rate, reader.facts.frames) == wanted
    assert times_ms(reader, found) == [0, 40, 80, 120, 160, 200]
    assert frame_times(io.BytesIO(data), Limits()) == [one.pts for one in found]


@pytest.mark.parametrize("start_ms", [0, 2000, 3_600_000])
@pytest.mark.parametrize(
    ("container", "how"),
    [
        ("mp4", {}),
        ("mov", {}),
        ("matroska", {}),
        ("matroska", {"sound": ["libopus"]}),
        ("webm", {"encoder": "libvpx-vp9", "pixel_format": "yuv420p"}),
    ],
)
def test_a_clock_may_begin_late(tmp_path: Path, container: str, how: dict[str, Any], start_ms: int) -> None:
    times = [start_ms + 40 * number for number in range(6)]
    if "sound" in how and start_ms > 10_000:
        return  # an hour of sound before the first frame
    reader, found = read(write_clip(tmp_path / "clip", SMALL, times_ms=times, container=container, **how))
    assert times_ms(reader, found) == times


ONE = 0x10000
"""1 in a display matrix."""


def with_matrix(path: Path, matrix: np.ndarray) -> bytes:
    """The bytes of an MP4 with another display matrix, (2, 2) of 0, 1 and -1."""
    data = path.read_bytes()
    at = data.index(b"tkhd") + 44
    (a, b), (c, d) = (matrix * ONE).tolist()
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000) + data[at + 36 :]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_all_eight_orientations_are_shown_upright(tmp_path: Path, transposed: bool, signs: tuple[int, int]) -> None:
    picture = np.full((48, 64, 3), 128, np.uint8)
    picture[:12, :16], picture[-12:, :16] = (230, 20, 20), (20, 20, 230)
    path = write_clip(tmp_path / "clip.mp4", [picture] * 2, aspect=Fraction(16, 11))
    matrix = np.diag(signs)
    matrix = matrix[:, ::-1] if transposed else matrix
    reader, found = read(with_matrix(path, matrix))
    rows, columns = np.mgrid[:48, :64]
    x, y = np.moveaxis(np.dstack([columns, rows]) @ matrix, -1, 0)  # (x, y) of a stored pixel times the matrix
    shown = np.zeros((64, 48, 3) if transposed else (48, 64, 3), np.uint8)
    shown[y - y.min(), x - x.min()] = picture
    assert np.abs(found[1].pixels.astype(int) - shown).mean() < 3
    assert reader.facts.aspect == (Fraction(11, 16) if transposed else Fraction(16, 11))


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("rotation", [0, 90])
def test_frames_are_let_go(tmp_path: Path, rotation: int) -> None:
    """PyAV's frame and its side data refer to each other, so each frame would wait for the garbage collector."""

    def living() -> int:
        return sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())

    path = write_clip(tmp_path / "clip.mp4", frames(60, 48, 64), rotation=rotation)
    gc.collect()
    before = living()
    with path.open("rb") as file, VideoReader(file, Limits()) as reader:
        assert sum(1 for _ in reader) == 60
        assert living() - before < 8


ENCRYPTION = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


def test_an_encrypted_video_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", SMALL, muxer=ENCRYPTION)
    with pytest.raises(DecodeError, match=r"this video is encrypted \(DRM\).*give a copy without protection"):
        read(path)


def test_display_p3_is_converted(tmp_path: Path) -> None:
    """A grey stays, and the red of sRGB, which has the levels (234, 51, 35) in Display P3, is that red again."""
    picture = np.full((48, 64, 3), 128, np.uint8)
    picture[:, :32] = (234, 51, 35)
    path = write_clip(tmp_path / "clip.mp4", [picture] * 2, colour={"color_primaries": 12})
    pixels = read(path)[1][0].pixels.astype(int)
    assert np.abs(pixels[:, 40:] - 128).max() <= 2
    assert np.abs(pixels[:, :24].mean((0, 1)) - (255, 0, 0)).max() < 8


def test_the_colours_of_cinema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"the colours of cinema \(DCI-P3\).*convert it to BT\.709 first"):
        read(write_clip(tmp_path / "clip.mp4", SMALL, colour={"color_primaries": 11}))


def test_500_frames_per_second_keep_their_times(tmp_path: Path) -> None:
    times = list(range(0, 40, 2))
    reader, found = read(write_clip(tmp_path / "clip.mp4", frames(20, 48, 64), times_ms=times))
    assert times_ms(reader, found) == times


def test_8k_is_a_matter_of_the_limit(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "clip.mp4",
        [np.zeros((4320, 7680, 3), np.uint8)],
        pixel_format="yuv420p",
        options={"preset": "ultrafast", "crf": "40", "threads": "1"},
    )
    with pytest.raises(DecodeError, match=r"7680 x 4320 pixels; limits\.max_pixels allows 20,000,000"):
        read(path, max_pixels=20_000_000)
    assert read(path, max_pixels=40_000_000)[0].facts.size == (4320, 7680)
