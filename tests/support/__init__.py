"""What tests and benchmarks share: small models and data sets, comparisons, bytes that are alive."""
