"""Norm tuning: the scales and offsets of norm layers of every kind, and the classifier.

    python recipes/norm.py
    python recipes/norm.py --data FOLDER --model NAME[:WEIGHTS_FILE]
    accelerate launch --num_processes 2 recipes/norm.py

This is what ``bn`` does, for transformers and other networks without BatchNorm too. The running statistics of BatchNorm layers
stay frozen.

Measured on the digits (898 images of 64 px, ``--epochs 3``), on one core of an AMD EPYC:
accuracy 0.966, 54,826 trainable parameters, delta of 230,624 bytes, 25 s.
"""

import time

from recipe import arguments, backbone, classes, images, report

import petl


def main() -> None:
    args = arguments(__doc__)
    model = backbone(args)
    petl.wrap(model, petl.Norm(), num_classes=len(classes(args, model)))
    train, test = images(args, model)
    start = time.perf_counter()
    petl.fit(model, train, epochs=args.epochs, lr=args.lr, batch_size=args.batch_size, seed=args.seed)
    report(args, model, test, time.perf_counter() - start)


if __name__ == "__main__":
    main()
