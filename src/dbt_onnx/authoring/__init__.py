"""Make a registered version from a fitted estimator or from a bare ONNX file."""
