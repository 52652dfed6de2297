"""A small detector with a feature pyramid, trained on generated shapes and deployed to INT8.

`python -m examples.detector` trains it in about two minutes on one core, and writes
`demo-output/detector-int8.onnx`. The model and the training know nothing of deployment.
"""
