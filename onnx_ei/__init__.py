"""Information-theoretic measures of any neural network, through ONNX."""
