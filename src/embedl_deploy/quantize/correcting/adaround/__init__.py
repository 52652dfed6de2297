"""AdaRound: weights rounded up or down, whichever makes the layer's results right."""

from embedl_deploy.quantize.correcting.adaround.run import LearnedRounding, RoundingRow, adaround

__all__ = ["LearnedRounding", "RoundingRow", "adaround"]
