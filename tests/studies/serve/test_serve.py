"""``make serve-check``: speed, memory, hostile files, a soak and the page of a service with the bundled model."""

from __future__ import annotations

import io
import os
import random
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from damage import damaged
from PIL import Image

from pipeline.config.job import Limits
from pipeline.imaging.decode import decode
from pipeline.paths import EXAMPLES

pytestmark = [pytest.mark.study, pytest.mark.timeout(4 * 3600)]
FILES = int(os.environ.get("FILES") or 10_000)
Keep = Callable[[str, Any], None]
REQUESTS = int(os.environ.get("REQUESTS") or 20_000)
WARM_UP = 200
"""Requests before those that are counted, of every kind: the first ones make pools, caches and heaps."""
KINDS = {"small": 46, "photo": 20, "wrong": 12, "option": 8, "outside": 4, "leave": 10}
"""Kinds of requests, and their shares in percent."""
CLIENTS = 8
HEAD = b"POST /v1/cutout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx"
PHONE = {"width": 390, "height": 844, "phone": True}
LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"width": 1280, "height": 800},
    "dark": {"width": 1280, "height": 800, "dark": True},
    "phone": PHONE,
    "phone-dark": PHONE | {"dark": True},
}


def timed(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_start_and_idle_memory(start_service: Callable[..., Any], bars: Any, cup: bytes, keep: Keep) -> None:
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        running = start_service(ready=False)
        assert running.post("/v1/cutout", cup).status == 200
        seconds.append(time.monotonic() - began)
        memory_mb = psutil.Process(running.process.pid).memory_info().rss / 1e6
        running.end()
    keep("start", {"first_answer_s": min(seconds), "idle_mb": memory_mb})
    bars.at_most("seconds from the command to its first answer, best of 3", min(seconds), 3)
    bars.at_most("memory of an idle service, MB", memory_mb, 600)


def test_one_client_waits_hardly_longer_than_for_the_model(service: Any, bars: Any, model: Any, cup: bytes, keep: Keep) -> None:
    """Pairs, one after the other, so that other work on the machine meets both."""
    pixels, alone, served = decode(cup, Limits()), [], []
    for _ in range(31):
        alone.append(timed(lambda: model.segment([pixels], [None])))
        served.append(timed(lambda: service.post("/v1/cutout", cup)))
    own_ms, ms = 1000 * statistics.median(alone), 1000 * statistics.median(served)
    print(f"the model alone: {own_ms:.0f} ms; a request: {ms:.0f} ms")
    keep("one_client", {"request_ms": ms, "model_ms": own_ms})
    bars.at_most(f"p50 of a 600 x 400 request, ms (1.15 times the model's {own_ms:.0f} ms, and 30)", ms, 1.15 * own_ms + 30)


def test_eight_clients_keep_the_model_busy(service: Any, bars: Any, model: Any, cup: bytes, keep: Keep) -> None:
    pixels, count, shares = decode(cup, Limits()), 32, []
    with ThreadPoolExecutor(CLIENTS) as clients:
        for _ in range(5):
            alone = timed(lambda: model.segment([pixels] * count, [None] * count))
            together = timed(lambda: list(clients.map(lambda _: service.post("/v1/cutout", cup), range(count))))
            shares.append(alone / together)
    print(f"shares of the model's own throughput: {[round(one, 2) for one in shares]}")
    keep("eight_clients", {"shares_of_model": shares})
    bars.at_least("throughput with 8 clients as a share of the model alone, median of 5", statistics.median(shares), 0.9)


def test_a_full_queue_answers_at_once(start_service: Callable[..., Any], bars: Any, cup: bytes, keep: Keep) -> None:
    running = start_service("--queue", "6")
    with ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            client.sendall(HEAD)
        while running.gauge("queue") < 6:
            time.sleep(0.02)
        statuses, seconds = [], []
        for _ in range(50):
            seconds.append(timed(lambda: statuses.append(running.post("/v1/cutout", cup).status)))
    running.end()
    assert set(statuses) == {503}
    keep("full_queue", {"refusal_ms": 1000 * statistics.median(seconds)})
    bars.at_most("milliseconds until 503 with a full queue, median of 50", 1000 * statistics.median(seconds), 50)


def hostile(data: Path) -> Iterator[tuple[str, bytes]]:
    """Damaged files, and the awkward ones of DATA if there are any."""
    table = data / "torture" / "images.parquet"
    rows = pq.read_table(table, columns=["file", "data"]).to_pylist() if table.exists() else []
    yield from ((row["file"], row["data"]) for row in rows[:FILES])
    yield from damaged(1, max(0, FILES - len(rows)))


def growth(samples: list[tuple[int, float, int]]) -> list[tuple[float, float]]:
    """Medians of MiB and of descriptors, after a sixth and at the end, of samples ``(number, MiB, descriptors)``."""
    samples.sort()
    third = max(1, len(samples) // 3)
    parts = samples[third // 2 : third + third // 2], samples[-third:]
    return [tuple(statistics.median(row[column] for row in part) for part in parts) for column in (1, 2)]


def test_hostile_files_get_nothing_but_4xx(
    start_service: Callable[..., Any], bars: Any, data: Path, fake_preset: str, keep: Keep
) -> None:
    """The fake model: what is hostile here is the file."""
    running, statuses, wrong = start_service("--preset", fake_preset, "--set", "limits.max_pixels=25000000"), Counter(), []
    process, samples = psutil.Process(running.process.pid), []

    def post(one: tuple[int, tuple[str, bytes]]) -> None:
        number, (name, body) = one
        answer = running.post("/v1/cutout", body)
        statuses[answer.status] += 1
        if answer.status != 200 and not 400 <= answer.status < 500:
            wrong.append((name, answer.status, answer.body[:200]))
        if number % max(1, FILES // 60) == 0:
            samples.append((number, process.memory_info().rss / 2**20, process.num_fds()))

    with ThreadPoolExecutor(4) as clients:
        list(clients.map(post, enumerate(hostile(data))))
    (early, late), (fewer, more) = growth(samples)
    print(f"answers by status: {dict(statuses)}; MiB {early:.0f} to {late:.0f}; descriptors {fewer:.0f} to {more:.0f}")
    print(wrong[:5])
    keep(
        "hostile",
        {"files": FILES, "statuses": dict(statuses), "mib": [early, late], "descriptors": [fewer, more]},
    )
    bars.at_most(f"{FILES:,} hostile files: MiB more than the {early:.0f} after a sixth", late - early, 48)
    bars.at_most(f"{FILES:,} hostile files: descriptors more than {fewer:.0f}", more - fewer, 3)
    bars.at_most(f"of {sum(statuses.values()):,} hostile files: neither a picture nor 4xx", len(wrong), 0)
    bars.at_least("the service still answers", int(running.get("/ready").status == 200), 1)
    running.end()


def test_soak(service: Any, bars: Any, keep: Keep) -> None:
    """Photos of all sizes, wrong requests and clients that leave, from eight clients."""
    photos = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.jpg"))]
    small, large = io.BytesIO(), io.BytesIO()
    Image.open(EXAMPLES / "cat.jpg").resize((90, 60)).save(small, "JPEG")
    Image.open(EXAMPLES / "cat.jpg").resize((4000, 3000)).save(large, "JPEG")
    process, samples, seconds, statuses = psutil.Process(service.process.pid), [], [], Counter()

    def one(number: int) -> None:
        chance = random.Random(number)
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "leave":
            with socket.create_connection(("127.0.0.1", service.port)) as client:
                client.sendall(HEAD.replace(b"100000", b"%d" % len(photos[0])) + photos[0][: chance.choice((10, 10_000, None))])
            return
        known = {"small": small.getvalue(), "wrong": photos[0][:2000], "outside": large.getvalue()}
        body = known.get(kind) or chance.choice(photos)
        # A picture that fails after it was decoded: nothing may keep its pixels.
        wrong = {"option": "?box=1", "outside": "?box=9000,9000,9100,9100"}
        option = wrong.get(kind) or chance.choice(("", "?output=mask", "?output=json", "?format=webp"))
        began = time.monotonic()
        status = service.post(f"/v1/cutout{option}", body).status
        if number < 0:
            return
        statuses[status] += 1
        if status == 200:
            seconds.append(time.monotonic() - began)
        if number % max(1, REQUESTS // 60) == 0:
            samples.append((number, process.memory_info().rss / 2**20, process.num_fds()))
            print(f"request {number:,}: {samples[-1][1]:.0f} MiB, {samples[-1][2]} descriptors", flush=True)

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(one, range(-WARM_UP, 0)))
        list(clients.map(one, range(REQUESTS)))
    (early, late), (fewer, more) = growth(samples)
    p50, p90, p99 = (statistics.quantiles(seconds, n=100)[at] for at in (49, 89, 98))
    print(
        f"{REQUESTS:,} requests {dict(statuses)}; seconds p50 {p50:.2f}, p90 {p90:.2f}, p99 {p99:.2f}; "
        f"MiB {early:.0f} to {late:.0f}"
    )
    keep(
        "soak",
        {
            "requests": REQUESTS,
            "statuses": dict(statuses),
            "seconds": {"p50": p50, "p90": p90, "p99": p99},
            "samples": [dict(zip(("request", "mib", "descriptors"), sample, strict=True)) for sample in samples],
        },
    )
    bars.at_most(
        f"{REQUESTS:,} requests: answers of 500 and above", sum(n for status, n in statuses.items() if status >= 500), 0
    )
    bars.at_most(f"{REQUESTS:,} requests: MiB more than the {early:.0f} after a sixth", late - early, 48)
    bars.at_most(f"{REQUESTS:,} requests: descriptors more than {fewer:.0f}", more - fewer, 3)
    until = time.monotonic() + 60
    while service.gauge("queue") and time.monotonic() < until:
        time.sleep(0.1)
    bars.at_most("places of the queue that are never given back", service.gauge("queue"), 0)


def test_the_page(service: Any, browser: ModuleType, bars: Any, results: Callable[[str], Path]) -> None:
    path, out = browser.find(), results("serve")
    assert path is not None, f"no browser is installed; install one of {', '.join(browser.NAMES)}"
    viewed, contrasts, overflows, text_sizes = [], [], [], []
    with browser.Browser(path) as tab:
        for name, look in LOOKS.items():
            viewed.append(tab.open(f"http://127.0.0.1:{service.port}/", **look))
            field = tab.call("Runtime.evaluate", expression="document.getElementById('files')")["result"]["objectId"]
            chosen = [str(EXAMPLES / photo) for photo in ("espresso.jpg", "osprey.jpg", "otters.jpg")]
            tab.call("DOM.setFileInputFiles", files=chosen, objectId=field)
            until = time.monotonic() + 60
            while tab.run("document.querySelectorAll('.cutout img').length") < len(chosen):
                assert time.monotonic() < until, tab.errors
                time.sleep(0.05)
            tab.run("new Promise((done) => setTimeout(done, 300))")  # pictures are decoded
            tab.screenshot(out / f"{name}.png")
            print(out / f"{name}.png")
            overflows.append(tab.run(browser.WIDER))
            text_sizes.append(tab.run(browser.LEAST_TEXT))
            contrasts.append(tab.run(browser.LEAST_CONTRAST)[0])
        bars.at_most("page: script errors", len(tab.errors), 0)
    bars.at_most("page: first view, ms, median of 4", statistics.median(viewed), 500)
    bars.at_most("page: pixels wider than its window, phones too", max(overflows), 0)
    bars.at_least("page: smallest text, px", min(text_sizes), 12)
    bars.at_least("page: lowest contrast of text, light and dark (WCAG AA: 4.5)", min(contrasts), 4.5)
