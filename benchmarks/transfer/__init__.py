"""How well each method learns new data sets from pretrained weights: `python -m benchmarks.transfer`.

`data` reads backbones and images, `rows` are the methods of the table, `work` is what each row is given. `measure` chooses a
learning rate, trains and measures; `results` keeps a JSON line for each, so that a run can go on; `report` writes the tables.
"""
