"""Nothing secret in anything that a run writes, says or leaves behind: planted, then looked for everywhere."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.session
import psutil
import pyarrow.parquet as pq
import pytest
from botocore.config import Config

Command = Callable[..., subprocess.CompletedProcess[str]]
TOKEN = "planted-Token-Xq7w"
PASSWORD = "planted-Password-Zk3v"


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's own folder, of a short name: sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def everything_in_the_bucket(s3: Any, bucket: str, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Tables twice, as they are and as the text of their rows and metadata."""
    for key in s3.keys(bucket, prefix):
        data = s3.get(bucket, key)
        yield key, data
        if key.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            yield key, f"{table.schema.metadata} {table.to_pylist()}".encode()


def everything_on_the_disk(*folders: Path) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.name != "job.yaml":
                yield str(path), path.read_bytes()


@pytest.fixture(scope="module")
def bucket(s3: Any, make_photos: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory) -> str:
    name = s3.make_bucket()
    (photo,) = make_photos(tmp_path_factory.mktemp("photos"), 1)
    s3.put(name, "in/photo.jpg", photo.read_bytes())
    s3.put(name, "in/broken.jpg", b"\xff\xd8\xff\xe0 cut off")
    return name


@pytest.mark.parametrize("way", ["--set", "job file", "variables"])
def test_a_run_with_failures(
    own_process: Command, s3: Any, bucket: str, way: str, fake_preset: str, tmp_path: Path, ray_folder: Path
) -> None:
    names = {"aws_access_key_id": s3.key, "aws_secret_access_key": s3.secret, "region_name": "us-east-1"}
    signer = botocore.session.get_session().create_client(
        "s3", endpoint_url=s3.endpoint_url, config=Config(signature_version="s3v4"), **names
    )

    def signed(key: str) -> str:
        return str(signer.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=900))

    addresses = [signed(f"in/{name}.jpg") for name in ("photo", "broken", "missing")]
    signatures = [parse_qs(urlsplit(address).query)["X-Amz-Signature"][0] for address in addresses]
    with_password = s3.endpoint_url.replace("//", f"//me:{PASSWORD}@")
    addresses += [
        *("photo.jpg", "broken.jpg", "missing.jpg", "../above.jpg", f"s3://other-bucket/{bucket}.jpg"),
        *(f"s3://{s3.key}:{s3.secret}@{bucket}/in/photo.jpg", f"s3a://me:{PASSWORD}@{bucket}/x.jpg"),
        *(f"s3://{s3.key}:slash/{PASSWORD}@{bucket}/in/slash.jpg", f"https://me:slash/{PASSWORD}@h/a.jpg"),
        *(f"{with_password}/{bucket}/in/none.jpg?token={TOKEN}", f"https://me:{PASSWORD}@cdn.example.com/a.jpg?sig={TOKEN}"),
        *(f"https://me:{PASSWORD}@h:x/a?sig={TOKEN}", f"gs://me:{PASSWORD}@{bucket}/x.jpg"),
    ]
    s3.put(bucket, f"in/{way}.csv", "\n".join(["image_uri", *addresses]).encode())
    output = f"out-{way}"
    settings = ["budget.max_failed_share=1", f"storage.allow_roots=[{s3.endpoint_url}]"]
    on_ray = way == "variables"  # the other two in a worker process
    settings.append(f"compute.local_items={0 if on_ray else 100}")
    env = {"AWS_EC2_METADATA_DISABLED": "true", "RAY_TMPDIR": str(ray_folder), "MATTELINE_CACHE": str(tmp_path / "cache")}
    arguments = ["run", "-m", f"s3://{bucket}/in/{way}.csv", "-o", f"s3://{bucket}/{output}", "-p", fake_preset, "--verbose"]
    if way == "--set":
        settings += [f"storage.{key}={value}" for key, value in s3.settings.items()]
    elif way == "job file":
        (tmp_path / "job.yaml").write_text("storage:\n" + "".join(f"  {key}: {value}\n" for key, value in s3.settings.items()))
        arguments += ["--job", "job.yaml"]
    else:
        env |= s3.environment
    done = own_process(*arguments, *(part for setting in settings for part in ("--set", setting)), env=env)
    assert done.returncode == 0, done.stderr
    shown = [f"{len(addresses)} items: ", "item ", "fetch ", "decode "]
    assert all(word in done.stdout for word in shown), done.stdout

    logs = [path for path in ray_folder.rglob("*") if path.is_file() and "logs" in path.parts]
    assert (len(logs) > 10) == on_ray, "the session's logs must be among what is searched"
    told = [("stdout", done.stdout.encode()), ("stderr", done.stderr.encode())]
    written = [*told, *everything_in_the_bucket(s3, bucket, f"{output}/"), *everything_on_the_disk(ray_folder, tmp_path)]
    names = [name for name, _ in written]
    assert all(any(part in name for name in names) for part in ("/index/", "/runs/", "/lease/", "recipe.json", "/masks/"))
    secrets = {"key": s3.key, "secret": s3.secret, "token": TOKEN, "password": PASSWORD}
    secrets |= {f"signature {number}": signature for number, signature in enumerate(signatures)}
    found = [(what, name) for name, data in written for what, secret in secrets.items() if secret.encode() in data]
    assert found == []


@pytest.mark.parametrize("way", ["--set", "job file", "variables"])
def test_a_refusal(matteline: Command, s3: Any, bucket: str, way: str, fake_preset: str, tmp_path: Path) -> None:
    """Wrong credentials, with a token, which is wrong as well; told with a traceback."""
    given = {"key": "planted-Key-Jd81", "secret": PASSWORD, "token": TOKEN}
    arguments = ["run", "-m", f"s3://{bucket}/in/", "-o", f"s3://{bucket}/refused", "-p", fake_preset, "--verbose"]
    arguments += ["--endpoint-url", s3.endpoint_url, "--set", "storage.region=us-east-1"]
    env = {"AWS_EC2_METADATA_DISABLED": "true"}
    if way == "--set":
        arguments += [part for key, value in given.items() for part in ("--set", f"storage.{key}={value}")]
    elif way == "job file":
        (tmp_path / "job.yaml").write_text("storage:\n" + "".join(f"  {key}: {value}\n" for key, value in given.items()))
        arguments += ["--job", "job.yaml"]
    else:
        names = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "token": "AWS_SESSION_TOKEN"}
        env |= {names[key]: value for key, value in given.items()}
    refused = matteline(*arguments, env=env)
    assert refused.returncode == 2, refused.stderr
    assert "credentials were refused" in refused.stderr and "Traceback" in refused.stderr
    told = [("stdout", refused.stdout.encode()), ("stderr", refused.stderr.encode()), *everything_on_the_disk(tmp_path)]
    assert [(what, name) for name, data in told for what, secret in given.items() if secret.encode() in data] == []


def test_a_job_file_keeps_secrets_out_of_the_arguments_of_processes(
    matteline: Command, make_photos: Any, fake_preset: str, tmp_path: Path
) -> None:
    """Other users of the machine can see these (``ps``)."""
    make_photos(tmp_path / "photos", 2)
    (tmp_path / "job.yaml").write_text(f"storage:\n  key: planted-Key-Jd81\n  secret: {PASSWORD}\n  token: {TOKEN}\n")
    done = matteline("run", "-m", "photos", "-o", "out", "-p", fake_preset, "--job", "job.yaml")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert any("pipeline.run.worker" in line for line in lines), lines
    assert not [line for line in lines for secret in ("planted-Key-Jd81", PASSWORD, TOKEN) if secret in line]
