"""From a trainer's estimator, or a bare ONNX file, to a registered version."""
