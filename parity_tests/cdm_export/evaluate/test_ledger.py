"""What survives a kill."""

import os

import pytest

from cdm_export.evaluate.ledger import Ledger, state_of

ROW = {"all": {"pixels": 5.0, "epe": 0.125}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_rows_come_back_until_it_ends(cache):
    Ledger("a").add("one", ROW)
    Ledger("a").add("two", ROW)
    assert Ledger("a").rows() == {"one": ROW, "two": ROW} and Ledger("b").rows() == {}
    Ledger("a").close()
    assert Ledger("a").rows() == {} and not list(cache.glob("**/*.jsonl"))


@pytest.mark.parametrize(
    "torn", ['{"image": "two", "ro', '{"image": "two"}', "[1]", '{"image": "two", "row": {"a": 1}}']
)
def test_half_a_line_is_none(cache, torn):
    Ledger("a").add("one", ROW)
    (file,) = cache.glob("**/*.jsonl")
    with file.open("a") as opened:
        opened.write(torn)
    Ledger("a").add("three", ROW)
    assert set(Ledger("a").rows()) == {"one", "three"}


def test_a_cache_that_cannot_be_written(cache):
    cache.write_text("a file")
    Ledger("a").add("one", ROW)
    assert Ledger("a").rows() == {}


def test_state_of_files(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"1")
    before = state_of([file])
    assert state_of([file]) == before
    os.utime(file, ns=(1, 1))
    assert state_of([file]) != before != state_of([])
