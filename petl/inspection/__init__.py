"""What a wrapped model holds (`petl.summary`), and whether a model keeps petl's promises (`petl.check`)."""
