"""CRC-32: the same number from whichever library is here, and from isal, of the extra `fast`, several times as fast."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
