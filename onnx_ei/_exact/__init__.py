"""The exact engine: mutual information of affine spans, from distributions instead of samples."""
