"""Hundreds of thousands of damaged and hostile delta files: ``python -m benchmarks.fuzz --cases 200000 --seed 0``.

Each starts from a real file, one of each method (tests/golden), is changed by an accident to its bytes or by an enemy's hand
(``accidents.py``, ``enemies.py``), and goes through `petl.read`, `petl.load` with and without a model, and ``petl inspect``
(``judge.py``). It has to be the right delta or one PetlError, within a second and in bounded memory, while nothing else is
opened, written or fetched, and the model stays bit for bit (``watch.py``).
"""
