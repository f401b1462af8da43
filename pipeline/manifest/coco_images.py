"""Find the images that annotations name: other tools write other folders, separators, cases and Unicode forms."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import unquote

from pipeline.log import log
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.storage.object_names import collision_key


def find_images(names: Iterable[str], folder: str, files: Files) -> dict[str, str]:
    """Return the URI of each image. The folder is listed once, unless it is a web address.

    A name is a path below the folder. If there is no such file, the only one that ends in this path is used, or else the one
    that has the longest end of the path; with ``%20`` decoded, and at last regardless of case and Unicode form. A file that
    would be used for two names is used for none. A warning counts names that are not found. They keep their URI: an address
    or an absolute path as it is, others below the folder.

    Raises:
        StorageError: The folder can't be listed.
    """
    names = list(dict.fromkeys(names))
    written = {name: name if uris.scheme(name) or name.startswith("/") else uris.join(folder, name) for name in names}
    if uris.scheme(folder) in uris.HTTP_SCHEMES:
        return written
    base = f"{folder.rstrip('/')}/"
    paths = {info.uri.removeprefix(base) for info in files.list(folder, left_out=lambda _why, _path: None)}
    exact = {name: path for name in names if (path := name.removeprefix(base)) in paths}
    absent = [name for name in names if name not in exact]
    if not absent:
        return written | {name: base + path for name, path in exact.items()}
    guesses = _guesses(absent, paths)
    uses = Counter([*exact.values(), *guesses.values()])
    found = {name: path for name, path in guesses.items() if path is not None and uses[path] == 1}
    if found:
        name, path = next(iter(found.items()))
        log.warning(f"{_count(found)} found by another path than in the annotations, such as {base + path} for {name!r}")
    lost = [name for name in absent if name not in found]
    if lost:
        several = "; several files or several names fit" if lost[0] in guesses else ""
        log.warning(f"{_count(lost)} not found below {folder}, first {lost[0]!r}{several}")
    return written | {name: base + path for name, path in (exact | found).items()}


def _guesses(names: Iterable[str], paths: Iterable[str]) -> dict[str, str | None]:
    """Return the paths that names could mean; None if there are several. Names without one are left out."""
    found: dict[str, str | None] = {}
    for key in (str, collision_key):
        wanted = {name: _spellings(name, key) for name in names if name not in found}
        whole = {"/".join(parts) for spellings in wanted.values() for parts in spellings}
        by_path, by_end = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for path in paths:
            by_path[key(path)].append(path)
            for end in _ends(key(path).split("/")[1:]):
                if end in whole:
                    by_end[end].append(path)
        for name, spellings in wanted.items():
            fitting = next((fits for parts in spellings for fits in _fitting(parts, by_path, by_end)), None)
            if fitting is not None:
                found[name] = fitting[0] if len(fitting) == 1 else None
    return found


def _fitting(parts: list[str], by_path: Mapping[str, list[str]], by_end: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """Yield lists of paths that fit a name, the best first."""
    whole = "/".join(parts)
    yield from (table[whole] for table in (by_path, by_end) if whole in table)
    yield from (by_path[end] for end in _ends(parts[1:]) if end in by_path)


def _spellings(name: str, key: Callable[[str], str]) -> list[list[str]]:
    """Return the folders and the name of a path; of an address, those behind ``://``; as it is, and percent-decoded."""
    path = re.split(r"[?#]", name.partition("://")[2], maxsplit=1)[0] if uris.scheme(name) else name
    return [key(spelling).strip("/").split("/") for spelling in dict.fromkeys((path, unquote(path)))]


def _ends(parts: list[str]) -> Iterator[str]:
    """Yield the ends of a path, the longest first."""
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _count(names: Iterable[str]) -> str:
    count = len(list(names))
    return "1 image is" if count == 1 else f"{count} images are"
