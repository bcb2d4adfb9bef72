"""What petl's guidance is worth, measured: one file for each verb, `python -m benchmarks.guidance.VERB --data FOLDER`."""
