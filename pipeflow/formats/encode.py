"""From records to the bytes of one object: joined once, compressed in one call, with a checksum.

Deterministic: the same segment gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeflow.checksum import crc32
from pipeflow.formats.compress import compressor
from pipeflow.messages import ObjectFacts, Records, Segment
from pipeflow.protocols import Object


def encode(segment: Segment, blocks: Sequence[Records], replace: bool = True) -> tuple[Object, ObjectFacts]:
    """The segment's object and what the manifest will say of it. For worker threads: it takes its time."""
    bodies: list[bytes] = []
    for block in blocks:
        bodies += block.bodies
    records = len(bodies)
    bodies.append(b"")  # the separator follows the last record too (Firehose: S23)
    content = segment.delimiter.join(bodies)
    return sealed(segment.name, packed(segment, segment.name, content), records, replace, len(content))


def packed(segment: Segment, name: str, content: bytes) -> bytes:
    """The content of an object of this segment, compressed as a whole (Firehose: S48)."""
    return compressor(segment.compression, segment.compression_level)(content, name)


def sealed(name: str, content: bytes, records: int, replace: bool, raw_size: int) -> tuple[Object, ObjectFacts]:
    """Finished content as an object, and its facts."""
    facts = ObjectFacts(name, len(content), crc32(content), records, raw_size)
    return Object(name, [content], records, replace), facts
