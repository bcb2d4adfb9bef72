"""What the verbs of guidance say of real images and real backbones, and synthetic tasks with a known right answer."""
