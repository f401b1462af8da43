"""The main job with manifest, images, weights and output all on a real S3 server."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]
MakePhotos = Callable[..., list[Path]]


def everything_said(done: subprocess.CompletedProcess[str], s3: Any, bucket: str) -> str:
    written = b"".join(s3.get(bucket, key) for key in s3.keys(bucket, "out/") if not key.endswith(".png"))
    return done.stdout + done.stderr + written.decode("latin-1")


@pytest.fixture(scope="module")
def bucket(s3: Any, make_photos: MakePhotos, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket with six photos, one broken, a manifest and the weights."""
    name = s3.make_bucket()
    for path in make_photos(tmp_path_factory.mktemp("photos"), 6):
        s3.put(name, f"catalog/photos/{path.name}", path.read_bytes())
    s3.put(name, "catalog/photos/broken.jpg", b"\xff\xd8\xff\xe0 cut off")
    rows = ["image_uri,item_id,sku", *(f"photos/photo-{number:03}.jpg,item/{number},S-{number}" for number in range(6))]
    rows.append(f"s3://{name}/catalog/photos/broken.jpg,broken,S-X")
    s3.put(name, "catalog/manifest.csv", "\n".join(rows).encode())
    s3.put(name, "models/small.onnx", (ROOT / "pipeline" / "weights" / "u2netp.onnx").read_bytes())
    return name


def test_everything_on_s3(matteline: Command, s3: Any, bucket: str, tmp_path: Path) -> None:
    command = (
        *("run", "--manifest", f"s3://{bucket}/catalog/manifest.csv", "--output", f"s3://{bucket}/out"),
        *("--preset", "u2netp", "--set", f"recipe.weights=s3://{bucket}/models/small.onnx"),
        *("--set", "budget.max_failed_share=0.2"),
        *("--rendition", "dataset-coco"),
    )
    env = s3.environment | {"MATTELINE_CACHE": str(tmp_path / "cache")}
    done = matteline(*command, env=env)
    assert done.returncode == 0, done.stderr
    parts = [key for key in s3.keys(bucket, "out/") if "/index/" in key]
    index = [row for key in parts for row in pq.read_table(io.BytesIO(s3.get(bucket, key))).to_pylist()]
    assert sorted(row["item_id"] for row in index) == ["broken", *(f"item/{number}" for number in range(6))]
    for row in index:
        assert (row["status"] == "failed") == (row["item_id"] == "broken")
        if row["status"] != "failed":
            for output in ("mask", "cutout"):
                data = s3.get(bucket, f"out/{row[f'{output}_path']}")
                assert hashlib.sha256(data).hexdigest() == row[f"{output}_sha256"]
                assert Image.open(io.BytesIO(data)).size == (row["width"], row["height"])
            (rle,) = row["renditions"]
            assert json.loads(s3.get(bucket, f"out/{rle['path']}"))["size"] == [
                row["height"],
                row["width"],
            ]
            assert row["sku"] == f"S-{row['item_id'][-1]}"
    pngs = [key for key in s3.keys(bucket, "out/") if key.endswith(".png")]
    assert len(pngs) == 12
    assert any("/runs/" in key for key in s3.keys(bucket, "out/"))
    assert s3.secret not in everything_said(done, s3, bucket)

    again = matteline(*command, env=env)
    assert again.returncode == 0, again.stderr
    assert "0 of 7 items to do" in again.stderr
    shown = matteline("show", f"s3://{bucket}/out", env=env)
    assert "7 items: " in shown.stdout
    united = matteline("dataset", f"s3://{bucket}/out", "--coco", f"s3://{bucket}/coco.json", env=env)
    assert united.returncode == 0, united.stderr
    assert len(json.loads(s3.get(bucket, "coco.json"))["images"]) == 6
    forms = ("--yolo", f"s3://{bucket}/yolo", "--parquet", f"s3://{bucket}/hub")
    united = matteline("dataset", f"s3://{bucket}/out", *forms, env=env)
    assert united.returncode == 0, united.stdout + united.stderr
    made = s3.keys(bucket, "yolo/")
    assert len([key for key in made if "/images/" in key]) == len([key for key in made if key.endswith(".txt")]) == 6
    assert s3.get(bucket, "hub/data/train-00000.parquet")[:4] == b"PAR1"


def test_a_prefix_is_a_manifest(matteline: Command, s3: Any, bucket: str, fake_preset: str, tmp_path: Path) -> None:
    where = ("run", "-m", f"s3://{bucket}/catalog/photos/", "-o", f"s3://{bucket}/prefix-out", "-p", fake_preset)
    done = matteline(*where, "--set", "budget.max_failed_share=0.5", env=s3.environment)
    assert done.returncode == 0, done.stderr
    assert "7 items: " in done.stdout


@pytest.mark.parametrize(
    ("change", "manifest", "output", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret-1234"}, "catalog/manifest.csv", "out2", "credentials"),
        ({}, "catalog/nothing.csv", "out2", "nothing.csv"),
        ({}, "catalog/manifest.csv", "../no-such-bucket-here/out", "bucket"),
    ],
)
def test_what_s3_refuses_is_refused_before_work(
    own_process: Command,
    s3: Any,
    bucket: str,
    tmp_path: Path,
    fake_preset: str,
    change: dict[str, str],
    manifest: str,
    output: str,
    words: str,
) -> None:
    target = f"s3://{bucket}/{output}" if not output.startswith("..") else f"s3://{output[3:]}"
    where = ("run", "-m", f"s3://{bucket}/{manifest}", "-o", target, "-p", fake_preset)
    refused = own_process(*where, env=s3.environment | change)
    assert refused.returncode == 2, refused.stderr
    assert words in refused.stderr.lower()
    assert "Traceback" not in refused.stderr
    for secret in (s3.secret, "wrong-secret-1234"):
        assert secret not in refused.stdout + refused.stderr
    assert not [key for key in s3.keys(bucket, "out2/") if key.endswith((".png", ".parquet"))]


def test_a_reader_may_not_write(own_process: Command, s3: Any, bucket: str, tmp_path: Path, fake_preset: str) -> None:
    reader = s3.environment | {"AWS_ACCESS_KEY_ID": s3.reader_key, "AWS_SECRET_ACCESS_KEY": s3.reader_secret}
    where = ("run", "-m", f"s3://{bucket}/catalog/manifest.csv", "-o", f"s3://{bucket}/out3", "-p", fake_preset)
    refused = own_process(*where, env=reader)
    assert refused.returncode == 2, refused.stderr
    assert "written" in refused.stderr


def test_credentials_from_settings_reach_the_workers(
    own_process: Command, s3: Any, bucket: str, tmp_path: Path, fake_preset: str
) -> None:
    job = tmp_path / "job.yaml"
    settings = "".join(f"  {key}: {value}\n" for key, value in s3.settings.items())
    job.write_text(
        f"manifest: s3://{bucket}/catalog/manifest.csv\noutput: s3://{bucket}/out4\npreset: {fake_preset}\n"
        f"budget:\n  max_failed_share: 0.2\nstorage:\n{settings}"
    )
    done = own_process("run", "--job", str(job), env={"AWS_EC2_METADATA_DISABLED": "true"})
    assert done.returncode == 0, done.stderr
    assert s3.secret not in done.stdout + done.stderr
    assert not any(s3.secret.encode() in s3.get(bucket, key) for key in s3.keys(bucket, "out4/") if not key.endswith(".png"))
