"""All rules, in the order of their ids."""

from embedl_deploy.tensorrt.rules import (
    edges,
    formats,
    heads,
    joins,
    kernels,
    norms,
    operators,
    pairs,
    scales,
    sizes,
    typed,
)
from embedl_deploy.tensorrt.rules.rule import Rule

FORMAT_RULES: tuple[Rule, ...] = (
    formats.F01, formats.F02, formats.F03, scales.F04, pairs.F05, scales.F06, scales.F07,
    scales.F08, scales.F09, pairs.F10, pairs.F11, formats.F12, pairs.F13, pairs.F14, formats.F15,
    operators.F16,
)  # fmt: skip

TYPE_RULES: tuple[Rule, ...] = (
    typed.T01, typed.T02, typed.T03, typed.T04, typed.T05, typed.T06, typed.T07, typed.T08,
    typed.T09,
)  # fmt: skip

PLACEMENT_RULES: tuple[Rule, ...] = (
    kernels.P01, kernels.P02, kernels.P03, joins.P04, joins.P05, joins.P06, joins.P07, joins.P08,
    joins.P09, sizes.P10, sizes.P11, sizes.P12, norms.P13, norms.P14, norms.P15, heads.P16,
    heads.P17, heads.P18, heads.P19, sizes.P20, edges.P21, kernels.P22, edges.P23, kernels.P24,
    joins.P25, formats.P26, kernels.P27, heads.P28,
)  # fmt: skip

RULES = FORMAT_RULES + TYPE_RULES + PLACEMENT_RULES
