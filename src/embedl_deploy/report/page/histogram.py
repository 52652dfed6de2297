"""Small drawings of how values are distributed."""

import math
from collections.abc import Sequence

_HEIGHT = 30


def bars(counts: Sequence[int], *, outside: bool) -> str:
    """An SVG path of bars, three units wide, of those bins that are in the range or outside.

    Heights are logarithms, so that a single value far out is seen.

    Args:
        counts: Of bins of equal width; the outer sixths of them are outside the range.
        outside: Which of the two.
    """
    edge, top = len(counts) // 6, math.log1p(max(counts, default=0))
    path = []
    for index, count in enumerate(counts):
        if count and outside != (edge <= index < len(counts) - edge):
            height = _HEIGHT * math.log1p(count) / top
            path.append(f"M{3 * index} {_HEIGHT}v{-height:.1f}h3v{height:.1f}z")
    return "".join(path)
