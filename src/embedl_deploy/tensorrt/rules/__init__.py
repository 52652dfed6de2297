"""The rules of TensorRT for ONNX files: one rule, one function, one id."""

from embedl_deploy.tensorrt.rules.catalog import RULES
from embedl_deploy.tensorrt.rules.check import check_onnx
from embedl_deploy.tensorrt.rules.report import Finding, Report, Unjudged
from embedl_deploy.tensorrt.rules.rule import Rule, Severity

__all__ = ["RULES", "Finding", "Report", "Rule", "Severity", "Unjudged", "check_onnx"]
