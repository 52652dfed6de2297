"""A small BERT that says whether a sentence is grammatical, deployed to INT8.

`python -m examples.text` makes the model from its configuration (nothing is downloaded), trains it
on generated sentences, and writes `demo-output/text-int8.onnx`.
"""
