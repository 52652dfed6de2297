"""Scikit-learn's handwritten digits: the data, three small models and their training.

The models and the training loop are plain PyTorch and know nothing of deployment.
"""
