"""How well each method learns new data sets from pretrained weights: `python -m benchmarks.transfer`."""
