"""How well each method learns new data sets from pretrained weights, with petl's defaults: `python -m benchmarks.transfer`.

`data` reads backbones and images, `rows` are the methods of the table, `work` is what each row is given. `measure` trains and
measures; `results` keeps a JSON line for each, so that a run can go on; `report` writes the tables.
"""
