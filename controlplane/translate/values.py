"""Values that several types of resources share: durations, and the sizes of Envoy's edge guide."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

BUFFER_BYTES: Final = 32 * 1024
"""What a connection may hold back, on either side."""
H2_STREAM_WINDOW: Final = 64 * 1024
H2_CONNECTION_WINDOW: Final = 1024 * 1024


def duration(ms: int) -> timedelta:
    """Whole milliseconds in the library's type for durations."""
    return timedelta(milliseconds=ms)
