"""What a training step and an inference cost, beside full fine-tuning and peft: `python -m benchmarks.speed`.

`sides` are the ways to fine-tune one model; `measure` counts bytes and takes times, `resident` the peak memory of a process.
`report` writes the page from the JSON files, with `tables` and `picture`.
"""
