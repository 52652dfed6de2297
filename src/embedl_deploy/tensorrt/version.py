"""Versions of TensorRT, or ranges of them."""

import re
from dataclasses import dataclass

from embedl_deploy.errors import CheckError


@dataclass(frozen=True)
class Version:
    """A version such as 10.12, or with `minor` None every 10.x.

    Attributes:
        major: 10 or 11.
        minor: The second number; None for any.
    """

    major: int
    minor: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Version":
        """`10.x`, `11.x`, or an exact one such as `10.12` or `11.1.0`.

        Raises:
            CheckError: It is none of these.
        """
        found = re.fullmatch(r"(10|11)(?:\.(x|\d+)(?:\.\d+)*)?", text.strip())
        if found is None:
            raise CheckError(
                f"'{text}' is no version of TensorRT that has rules here; "
                "use 10.x, 11.x, or an exact one such as 10.12"
            )
        minor = found[2]
        return cls(int(found[1]), None if minor in {None, "x"} else int(minor))

    def may_be_before(self, major: int, minor: int) -> bool:
        """Whether it is older than `major.minor`, or may be."""
        return (self.major, self.minor or 0) < (major, minor)

    def __str__(self) -> str:
        return f"{self.major}.{'x' if self.minor is None else self.minor}"
