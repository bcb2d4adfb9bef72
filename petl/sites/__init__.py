"""What is in a model: one forward on shapes alone records which modules run, on what, and in which order. The sites (places for
methods), their roles, and the blocks, stem and head of the architecture follow from that record.
"""
