"""Whether petl keeps its contract on every architecture of timm with every method: `python -m benchmarks.coverage`.

`plan` says which pairs of architecture and method are tried (`index` knows all architectures, `sample` is the fixed choice of
continuous integration). `run` starts processes with limits of time and memory, in which `worker` tries pair after pair and
prints a JSON line for each. `trials` leads to the depths: `shapes`, `real`, `graphs`, and `peft` for another library's LoRA;
they build their models with `models`, wrap them with `wrapping`, find classifiers with `heads`, and judge with `verdict`.
`report` writes the page, with `inapplicable` and `markdown`.
"""
