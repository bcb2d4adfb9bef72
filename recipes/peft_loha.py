"""A tuner of Hugging Face peft, here LoHa: peft's layers, with petl's classifier, frozen BatchNorm and delta file.

    python recipes/peft_loha.py
    python recipes/peft_loha.py --data FOLDER --model NAME[:WEIGHTS_FILE]
    accelerate launch --num_processes 2 recipes/peft_loha.py

Any peft config is a method: ``petl.wrap(model, peft.LoKrConfig(r=4))``. petl guarantees less for it than for its own methods:
a merged model has the same outputs only up to rounding, and grouped convolutions are refused.

Measured on the digits (898 images of 64 px, ``--epochs 3 --lr 2e-3``), on one core of an AMD EPYC:
accuracy 0.903, 195,082 trainable parameters, delta of 795,240 bytes, 26 s.
"""

import time

from peft import LoHaConfig
from recipe import arguments, backbone, classes, images, report

import petl


def main() -> None:
    args = arguments(__doc__)
    model = backbone(args)
    petl.wrap(model, LoHaConfig(r=4, alpha=4), num_classes=len(classes(args, model)))
    train, test = images(args, model)
    start = time.perf_counter()
    petl.fit(model, train, epochs=args.epochs, lr=args.lr, batch_size=args.batch_size, seed=args.seed)
    report(args, model, test, time.perf_counter() - start)


if __name__ == "__main__":
    main()
