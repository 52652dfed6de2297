"""Shapes of what TensorRT adds in the kernel of a convolution."""

Shape = tuple[int | None, ...]


def adds_in_place(one: Shape | None, other: Shape | None) -> bool:
    """Whether two shapes are one except for the batch; sizes that are not known fit any."""
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(one[1:], other[1:], strict=True)
    )
