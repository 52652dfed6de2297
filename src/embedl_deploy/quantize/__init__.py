"""Quantization: stubs where the patterns declared them, calibration, fine-tuning."""

from embedl_deploy.quantize.adaround import LearnedRounding, RoundingRow, adaround
from embedl_deploy.quantize.analyze import Analysis, AnalysisRow, analyze
from embedl_deploy.quantize.bias import BiasCorrection, BiasRow, correct_bias
from embedl_deploy.quantize.calibrate import calibrate
from embedl_deploy.quantize.clipping import EntropyObserver, MSEObserver, PercentileObserver
from embedl_deploy.quantize.config import QuantConfig, TensorQuantConfig
from embedl_deploy.quantize.distillation import DistillationLoss
from embedl_deploy.quantize.equalize import equalize
from embedl_deploy.quantize.histogram import HistogramObserver
from embedl_deploy.quantize.insert import insert_qdq
from embedl_deploy.quantize.observers import (
    FixedObserver,
    MinMaxObserver,
    MovingAverageObserver,
    Observer,
)
from embedl_deploy.quantize.placement import Placement, PlacementRow, placement
from embedl_deploy.quantize.recipes import RecipeReport, RecipeStep, quantize, recipe_report
from embedl_deploy.quantize.rescale.report import Rescaling, RescalingRow
from embedl_deploy.quantize.restore import restore
from embedl_deploy.quantize.rounding import Grid
from embedl_deploy.quantize.skip import Skip
from embedl_deploy.quantize.smooth import smooth
from embedl_deploy.quantize.stubs import QuantStub, WeightFakeQuantize
from embedl_deploy.quantize.training import freeze, freeze_batch_norm, scale_parameters

__all__ = [
    "Analysis",
    "AnalysisRow",
    "BiasCorrection",
    "BiasRow",
    "DistillationLoss",
    "EntropyObserver",
    "FixedObserver",
    "Grid",
    "HistogramObserver",
    "LearnedRounding",
    "MSEObserver",
    "MinMaxObserver",
    "MovingAverageObserver",
    "Observer",
    "PercentileObserver",
    "Placement",
    "PlacementRow",
    "QuantConfig",
    "QuantStub",
    "RecipeReport",
    "RecipeStep",
    "Rescaling",
    "RescalingRow",
    "RoundingRow",
    "Skip",
    "TensorQuantConfig",
    "WeightFakeQuantize",
    "adaround",
    "analyze",
    "calibrate",
    "correct_bias",
    "equalize",
    "freeze",
    "freeze_batch_norm",
    "insert_qdq",
    "placement",
    "quantize",
    "recipe_report",
    "restore",
    "scale_parameters",
    "smooth",
]
