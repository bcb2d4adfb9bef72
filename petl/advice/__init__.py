"""Which method, and whether pretraining helps at all: `petl.advise` reads the data and the model before any training."""
