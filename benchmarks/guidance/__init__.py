"""Guidance, measured: what each verb says of real backbones and images, against what trainings on them reach."""
