"""Reading no more than there is: a length in a damaged file would be reserved in memory before a byte is read."""

import io
import os
from typing import BinaryIO


class Bounded:
    """A stream from where it stands, as `pickletools.genops` reads it.

    Args:
        stream: bytes, or a file that can be sought in.
    """

    def __init__(self, stream: BinaryIO | bytes) -> None:
        self._stream = io.BytesIO(stream) if isinstance(stream, bytes) else stream
        self.tell, self.readline = self._stream.tell, self._stream.readline
        here = self.tell()
        self._end = self._stream.seek(0, os.SEEK_END)
        self._stream.seek(here)

    def read(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            ValueError: if fewer are left.
        """
        left = self._end - self.tell()
        if size > left:
            raise ValueError(f"{size} bytes are due where {left} are left")
        return self._stream.read(size)
