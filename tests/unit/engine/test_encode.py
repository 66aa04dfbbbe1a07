"""From records to bytes: what is written reads back, and equal records give equal bytes."""

from __future__ import annotations

import gzip
import importlib
import sys
import zlib
from types import ModuleType

import pytest

from pipeflow.engine import encode as encoding
from pipeflow.messages import Records, Segment


def segment(compression: str = "gzip", delimiter: bytes = b"\n") -> Segment:
    return Segment(1, "lake", "", 1, 3, 3, 9, 0.0, 1.0, "time", "lake-1.jsonl.gz", "jsonl", compression, delimiter)


BLOCKS = [Records(1, 0.0, [b"one", b""]), Records(3, 0.5, [b"three"])]


@pytest.fixture(params=["isal", "zlib"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is with and without the faster package."""
    if request.param == "isal":
        pytest.importorskip("isal")
        return encoding
    for name in ("isal", "isal.igzip", "isal.isal_zlib"):
        monkeypatch.setitem(sys.modules, name, None)
    found = importlib.util.find_spec("pipeflow.engine.encode")
    assert found is not None
    assert found.loader is not None
    copy = importlib.util.module_from_spec(found)
    found.loader.exec_module(copy)
    return copy


def test_gzip_reads_back_with_facts_that_are_true(module: ModuleType) -> None:
    obj, facts = module.encode(segment(), BLOCKS)
    content = b"".join(obj.chunks)
    assert gzip.decompress(content) == b"one\n\nthree\n"
    assert (facts.name, facts.size, facts.crc, facts.records) == (obj.name, len(content), zlib.crc32(content), 3)


def test_p17_the_same_segment_gives_the_same_bytes(module: ModuleType) -> None:
    first, _ = module.encode(segment(), BLOCKS)
    again, _ = module.encode(segment(), [Records(1, 9.0, [b"one", b"", b"three"])])
    assert first.chunks == again.chunks
    assert first.chunks[0][4:8] == bytes(4)  # no time of day in the header


def test_S11_an_object_of_one_empty_record_is_one_empty_line(module: ModuleType) -> None:
    obj, _ = module.encode(segment("none"), [Records(1, 0.0, [b""])])
    assert obj.chunks == [b"\n"]


def test_S23_without_a_delimiter_nothing_stands_between_records(module: ModuleType) -> None:
    obj, _ = module.encode(segment("none", b""), BLOCKS)
    assert obj.chunks == [b"onethree"]
