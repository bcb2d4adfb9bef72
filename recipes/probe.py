"""Linear probe: the classifier alone, on features that are computed once.

    python recipes/probe.py
    python recipes/probe.py --data FOLDER --model NAME[:WEIGHTS_FILE]
    accelerate launch --num_processes 2 recipes/probe.py

The first thing to try: many epochs cost next to nothing, and every other method has to beat it. The features are those of
the evaluation transform or, with augmentation, of one augmented view: ``petl.fit(..., views=4)`` computes four.

Measured on the digits (30 epochs on 898 images of 64 px), on one core of an AMD EPYC: accuracy 0.953, 12,810 trainable
parameters, delta of 52,232 bytes, 3 s.
"""

import time

from common import arguments, backbone, classes, images, report

import petl


def main() -> None:
    args = arguments(__doc__, epochs=30, lr=1e-2)
    model = backbone(args)
    petl.wrap(model, petl.Probe(), num_classes=len(classes(args, model)))
    train, test = images(args, model)
    start = time.perf_counter()
    petl.fit(model, train, epochs=args.epochs, lr=args.lr, batch_size=args.batch_size, seed=args.seed)
    report(args, model, test, time.perf_counter() - start)


if __name__ == "__main__":
    main()
