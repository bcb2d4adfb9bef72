"""Input adapter: images with one gray channel for a backbone that expects three channels, and the classifier.

    python recipes/input.py
    python recipes/input.py --data FOLDER --model NAME[:WEIGHTS_FILE]
    accelerate launch --num_processes 2 recipes/input.py

The input adapter is initialised so that it repeats the gray channel three times, and it trains together with the classifier.
For images with five bands, use ``petl.Input(in_chans=5)``. ``petl.merge`` folds the adapter into the first convolution and
returns a timm model with one input channel.

Measured on the digits (898 images of 64 px, ``--epochs 3``), on one core of an AMD EPYC:
accuracy 0.958, 12,813 trainable parameters, delta of 53,708 bytes, 30 s.
"""

import time

from recipe import arguments, backbone, classes, images, report

import petl


def main() -> None:
    args = arguments(__doc__)
    model = backbone(args)
    petl.wrap(model, petl.Input(in_chans=1), num_classes=len(classes(args, model)))
    train, test = images(args, model)
    start = time.perf_counter()
    petl.fit(model, train, epochs=args.epochs, lr=args.lr, batch_size=args.batch_size, seed=args.seed)
    report(args, model, test, time.perf_counter() - start)


if __name__ == "__main__":
    main()
