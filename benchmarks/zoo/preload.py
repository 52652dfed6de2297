"""What the fork server imports once, so that no model pays for it."""

import importlib
import warnings

import torch

from embedl_deploy.cli.torchvision_ops import import_torchvision

warnings.filterwarnings("ignore")  # of a model's own code; the run shows errors and figures
torch.set_num_threads(1)
import_torchvision()
for _package in ("timm", "torchvision.models", "transformers", "embedl_deploy"):
    importlib.import_module(_package)
