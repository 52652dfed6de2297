"""The target where nothing else is said: the one place that names it."""

from embedl_deploy.tensorrt import TENSORRT

DEFAULT = TENSORRT
