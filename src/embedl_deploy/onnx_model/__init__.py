"""Reading ONNX files: graph, index, shapes and types, for everything that looks at one."""
