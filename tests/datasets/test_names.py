"""Names of files are distinct on every file system, and stay below their folder."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.datasets.names import Names, image_path
from pipeline.errors import ConfigError
from pipeline.storage.object_names import collision_key, cut_name

TEXTS = st.one_of(
    st.text(min_size=1, max_size=60),
    st.text(alphabet="aAb.~-_/ %E2\\:*\n\u202e日", min_size=1, max_size=12),
    st.lists(
        st.sampled_from(["con", "a.png", "A.jpg", "a", "a.txt", "a.heic", "..", ".", " ", "", "x" * 150]),
        min_size=1,
        max_size=5,
    ).map("/".join),
)


@given(st.lists(TEXTS, unique=True, max_size=20))
@example(["a.jpg", "a.jpg/b.png", "a.txt/b.png", "a.webp"])
def test_names_are_distinct_files_on_every_file_system(paths: list[str]) -> None:
    names = Names(paths)
    made = [names.name(path, path) for path in paths]
    assert len({collision_key(name) for name in made}) == len(paths)
    assert all(not name.startswith("/") and not {"..", ".", ""} & set(name.split("/")) for name in made)
    files = {collision_key(f"{name}.{suffix}") for name in made for suffix in ("jpg", "png", "txt", "heic")}
    folders = {collision_key("/".join(name.split("/")[:depth])) for name in made for depth in range(1, name.count("/") + 1)}
    assert not files & folders, "no file has the name of a folder"


def test_names_that_collide_keep_the_suffix() -> None:
    paths = ["a.jpg", "a.webp", "a.jpg.tif", "b.jpg"]
    names = Names(paths)
    made = [names.name(path, path) for path in paths]
    assert made == [cut_name("a.jpg", "a.jpg"), "a.webp", "a.jpg", "b"], "a.jpg.tif has the name a.jpg"
    names = Names(["A.jpg", "a.jpg"])
    assert names.name("A.jpg", "A.jpg").startswith("A.jpg~") and names.name("a.jpg", "a.jpg").startswith("a.jpg~")


def test_a_name_that_imitates_a_cut_one_is_told() -> None:
    imitation = cut_name("A.jpg", "A.jpg")
    names = Names(["A.jpg", "a.jpg", f"{imitation}.png"])
    with pytest.raises(ConfigError, match=r"another image has the name 'A\.jpg~[0-9a-f]{16}'"):
        names.name("A.jpg", "A.jpg")


def test_images_of_one_path_have_names_by_their_addresses() -> None:
    names = Names(["b/a.jpg", "b/a.jpg", "c.jpg"])
    assert names.is_shared("b/a.jpg") and not names.is_shared("c.jpg")
    assert names.name("b/a.jpg", "/one/b/a.jpg") == cut_name("b/a.jpg", "/one/b/a.jpg") != names.name("b/a.jpg", "/two/b/a.jpg")


@pytest.mark.parametrize(
    ("uri", "base", "path"),
    [
        ("/shop/photos/shelf/a.JPG", "/shop/photos", "shelf/a.JPG"),
        ("/shop/photos-2/a.jpg", "/shop/photos", "shop/photos-2/a.jpg"),
        ("s3://bucket/photos/a.jpg", "s3://bucket/photos/", "a.jpg"),
        ("https://host/i?id=7", "s3://bucket", "host/i?id=7"),
        ("/shop/a.jpg", None, "shop/a.jpg"),
        ("/shop/a.jpg", "/", "shop/a.jpg"),
        ("s3://bucket/in/00000.tar#offset=0&size=9&name=a.jpg", "s3://bucket/in", "00000/a.jpg"),
        ("/shop/x.tar#offset=0&size=9&name=..%2F..%2Fetc%2F.%2Fa.jpg", "/shop", "x/etc/a.jpg"),
        ("/shop/train.parquet#row=17&column=image", "/shop", "train/17"),
        ("/shop/a.jpg#row=1", "/shop", "a.jpg#row=1"),
    ],
)
def test_a_path_does_not_depend_on_other_images(uri: str, base: str | None, path: str) -> None:
    assert image_path(uri, base) == path
