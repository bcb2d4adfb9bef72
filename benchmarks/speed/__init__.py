"""What a training step and an inference cost, beside full fine-tuning and peft: `python -m benchmarks.speed`."""
