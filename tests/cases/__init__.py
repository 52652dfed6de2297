"""At least one case for each pattern; the generic tests in `test_cases.py` take them from here."""

from tests.cases import (
    attention,
    conv,
    conv_nd,
    linear,
    pooling,
    residual,
    written,
    written_attention,
)
from tests.cases.case import Case, Near

__all__ = ["CASES", "Case", "Near"]

CASES: tuple[Case, ...] = (
    *conv.CASES,
    *conv_nd.CASES,
    *residual.CASES,
    *linear.CASES,
    *pooling.CASES,
    *attention.CASES,
    *written.CASES,
    *written_attention.CASES,
)
