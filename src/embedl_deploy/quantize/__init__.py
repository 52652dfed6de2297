"""Quantization: stubs where the patterns declared them, calibration, fine-tuning."""

from embedl_deploy.quantize.accurate import RecipeReport, RecipeStep, recipe_report
from embedl_deploy.quantize.calibrating.calibrate import calibrate
from embedl_deploy.quantize.config import QuantConfig, TensorQuantConfig
from embedl_deploy.quantize.correcting.adaround import LearnedRounding, RoundingRow, adaround
from embedl_deploy.quantize.correcting.bias import BiasCorrection, BiasRow, correct_bias
from embedl_deploy.quantize.correcting.equalize import equalize
from embedl_deploy.quantize.correcting.rescale.report import Rescaling, RescalingRow
from embedl_deploy.quantize.correcting.smooth import smooth
from embedl_deploy.quantize.measuring.analyze import Analysis, AnalysisRow, analyze
from embedl_deploy.quantize.observing.clipping import (
    EntropyObserver,
    MSEObserver,
    PercentileObserver,
)
from embedl_deploy.quantize.observing.histogram import HistogramObserver
from embedl_deploy.quantize.observing.observers import (
    FixedObserver,
    MinMaxObserver,
    MovingAverageObserver,
    Observer,
)
from embedl_deploy.quantize.placing.insert import insert_qdq
from embedl_deploy.quantize.placing.placement import Placement, PlacementRow, placement
from embedl_deploy.quantize.placing.restore import restore
from embedl_deploy.quantize.recipes import quantize
from embedl_deploy.quantize.rounding import Grid
from embedl_deploy.quantize.skip import Skip
from embedl_deploy.quantize.stubs import QuantStub, WeightFakeQuantize
from embedl_deploy.quantize.training.distillation import DistillationLoss
from embedl_deploy.quantize.training.freezing import freeze, freeze_batch_norm, scale_parameters

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
