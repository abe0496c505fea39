"""A picture in memory: rectangles, text and curves of time, written as PNG (RFC 2083)."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise

Colour = tuple[int, int, int]
GLYPH = 6
"""Pixels from one character to the next, and 8 from line to line, at size 1."""
_FONT = bytes.fromhex(
    "000000000000005f00000007000700147f147f14242a7f2a12231308646236495522500005030000001c224100"
    "0041221c00082a1c2a0808083e080800503000000808080808006060000020100804023e5149453e00427f4000"
    "42615149462141454b311814127f1027454545393c4a49493001710905033649494936064949291e0036360000"
    "00563600000008142241141414141441221408000201510906324979413e7e1111117e7f494949363e41414122"
    "7f4141221c7f494949417f090901013e414151327f0808087f00417f41002040413f017f081422417f40404040"
    "7f0204027f7f0408107f3e4141413e7f090909063e4151215e7f09192946464949493101017f01013f4040403f"
    "1f2040201f7f2018207f63140814630304780403615149454300007f4141020408102041417f00000402010204"
    "4040404040000102040020545454787f484444383844444420384444487f3854545418087e090102081454543c"
    "7f0804047800447d40002040443d00007f10284400417f40007c041804787c0804047838444444387c14141408"
    "081414187c7c080404084854545420043f4440203c4040207c1c2040201c3c4030403c44281028440c5050503c"
    "4464544c44"
)
"""Five columns for each character from the space to ``z``, the lowest bit above."""


class Canvas:
    """A white picture.

    Args:
        width: In pixels.
        height: In pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._pixels = bytearray(b"\xff" * (3 * width * height))

    def blend(self, x: int, y: int, colour: Colour, share: float = 1.0) -> None:
        """Cover a share of a pixel; one outside is none."""
        if 0 <= x < self.width and 0 <= y < self.height:
            at = 3 * (y * self.width + x)
            for n, value in enumerate(colour, at):
                self._pixels[n] += round((value - self._pixels[n]) * min(1.0, share))

    def box(self, x: int, y: int, wide: int, tall: int, colour: Colour) -> None:
        """Fill a rectangle."""
        for row in range(max(0, y), min(self.height, y + tall)):
            left, right = max(0, x), min(self.width, x + wide)
            at = 3 * (row * self.width + left)
            self._pixels[at : at + 3 * max(0, right - left)] = bytes(colour) * max(0, right - left)

    def text(self, x: int, y: int, text: str, colour: Colour, size: int = 2) -> None:
        """Write a line; what the font does not have is a question mark."""
        for number, char in enumerate(text):
            code = ord(char) if " " <= char <= "z" else ord("?")
            columns = _FONT[(code - 32) * 5 : (code - 31) * 5]
            for column, bits in enumerate(columns):
                for row in range(7):
                    if bits >> row & 1:
                        left = x + (number * GLYPH + column) * size
                        self.box(left, y + row * size, size, size, colour)

    def curve(
        self, points: Sequence[tuple[float, float]], colour: Colour, wide: float = 2.0
    ) -> None:
        """Draw a line through points whose x does not fall; each pixel as far as it is covered."""
        for (x0, y0), (x1, y1) in pairwise(points):
            if x1 - x0 < 1:
                self._column(round(x1), y0, y1, colour, wide)
                continue
            slope = (y1 - y0) / (x1 - x0)
            for x in range(round(x0), round(x1) + 1):
                left, right = max(x0, x - 0.5), min(x1, x + 0.5)
                ends = y0 + (left - x0) * slope, y0 + (right - x0) * slope
                self._column(x, *ends, colour, wide)

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fill a circle; each pixel of its edge about as far as it is covered."""
        for row in range(int(y - radius) - 1, int(y + radius) + 2):
            for column in range(int(x - radius) - 1, int(x + radius) + 2):
                inside = radius + 0.5 - math.hypot(column - x, row + 0.5 - y)
                self.blend(column, row, colour, max(0.0, inside))

    def _column(self, x: int, y0: float, y1: float, colour: Colour, wide: float) -> None:
        low, high = min(y0, y1) - wide / 2, max(y0, y1) + wide / 2
        for y in range(int(low), int(high) + 1):
            self.blend(x, y, colour, max(0.0, min(high, y + 1) - max(low, y)))

    def png(self) -> bytes:
        """Return the file."""
        row = 3 * self.width
        lines = b"".join(
            b"\0" + self._pixels[at : at + row] for at in range(0, len(self._pixels), row)
        )
        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        )
