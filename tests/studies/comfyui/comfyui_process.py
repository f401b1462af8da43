"""ComfyUI in a process of its own, without a GPU, and a client of its API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S, PROMPT_S = 480, 240


class Refused(Exception):
    """ComfyUI did not accept a workflow."""


@dataclass
class ComfyUI:
    """A running ComfyUI.

    Attributes:
        address: Its address.
        base: Its folder with ``input``, ``output``, ``models`` and ``custom_nodes``.
        log: File with all that it has printed.
    """

    address: str
    base: Path
    log: Path

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return json.load(answer)

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Run a workflow of the API's form and return its entry of the history.

        Raises:
            Refused: With ComfyUI's errors.
        """
        body = json.dumps({"prompt": prompt}).encode()
        request = urllib.request.Request(self.address + "/prompt", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                number = json.load(answer)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode()) from error
        ends = time.monotonic() + PROMPT_S
        while time.monotonic() < ends:
            history: dict[str, dict[str, Any]] = self.get(f"/history/{number}")
            if number in history:
                return history[number]
            time.sleep(0.1)
        raise TimeoutError(f"no result after {PROMPT_S} s:\n{self.log.read_text()[-3000:]}")

    def saved(self, entry: dict[str, Any], node: str) -> list[Path]:
        """Return the files that a node has saved or shown."""
        images = entry["outputs"].get(node, {}).get("images", [])
        return [self.base / image["type"] / image["subfolder"] / image["filename"] for image in images]


@contextmanager
def running(comfyui: Path, python: str, base: Path, page: Path) -> Iterator[ComfyUI]:
    """Start ComfyUI and end it.

    Args:
        comfyui: A checkout.
        python: An interpreter with its dependencies, and ours.
        base: As ``ComfyUI.base``.
        page: A folder with an ``index.html``, in place of its editor.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-api-nodes")
    folders = ("--base-directory", str(base), "--front-end-root", str(page), "--database-url", "sqlite:///:memory:")
    log = base / "comfyui.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [python, "main.py", *options, *folders],
            cwd=comfyui,
            stdout=sink,
            stderr=sink,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    try:
        server = ComfyUI(f"http://127.0.0.1:{port}", base, log)
        _wait(process, server)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def as_prompt(workflow: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """Convert a workflow of the editor to the API's form, as the editor does.

    Args:
        workflow: The content of its file.
        nodes: ComfyUI's ``/object_info``.
    """
    sources = {number: [str(source), slot] for number, source, slot, *_ in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        widgets = [slot["name"] for slot in node["inputs"] if "widget" in slot]
        known = {name for kind in nodes[node["type"]]["input"].values() for name in kind}
        values = {name: value for name, value in zip(widgets, node["widgets_values"], strict=True) if name in known}
        links = {slot["name"]: sources[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": values | links}
    return prompt


def _wait(process: subprocess.Popen[bytes], server: ComfyUI) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            server.get("/system_stats")
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"ComfyUI did not start:\n{server.log.read_text()[-3000:]}")
